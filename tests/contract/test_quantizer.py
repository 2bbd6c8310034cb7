"""What every registered part promises, run on all of them: `cyclevar.core.contract.test_quantizer`."""

from cyclevar.core.contract.test_quantizer import *  # noqa: F403
