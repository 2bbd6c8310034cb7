"""What every registered part promises, run on all of them: `cyclevar.core.contract.test_discriminator`."""

from cyclevar.core.contract.test_discriminator import *  # noqa: F403
