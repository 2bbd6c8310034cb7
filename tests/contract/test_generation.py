"""What every registered part promises, run on all of them: `cyclevar.core.contract.test_generation`."""

from cyclevar.core.contract.test_generation import *  # noqa: F403
