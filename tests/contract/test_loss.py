"""What every registered part promises, run on all of them: `cyclevar.core.contract.test_loss`."""

from cyclevar.core.contract.test_loss import *  # noqa: F403
