"""What every registered part promises, run on all of them: `cyclevar.core.contract.test_parts`."""

from cyclevar.core.contract.test_parts import *  # noqa: F403
