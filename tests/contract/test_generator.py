"""What every registered part promises, run on all of them: `cyclevar.core.contract.test_generator`."""

from cyclevar.core.contract.test_generator import *  # noqa: F403
