"""What every registered part promises, run on all of them: `cyclevar.core.contract.test_tokenizer`."""

from cyclevar.core.contract.test_tokenizer import *  # noqa: F403
