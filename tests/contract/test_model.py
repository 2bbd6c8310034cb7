"""What every registered part promises, run on all of them: `cyclevar.core.contract.test_model`."""

from cyclevar.core.contract.test_model import *  # noqa: F403
