"""What every registered part promises, run on all of them: `cyclevar.core.contract.test_backbone`."""

from cyclevar.core.contract.test_backbone import *  # noqa: F403
