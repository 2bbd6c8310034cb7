"""Settings of the search; torch-free."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat

from cyclevar.core.config.base import Settings

LIKELIHOOD = "likelihood"


class SearchConfig(Settings):
    """How many candidates, and who judges them."""

    candidates: int = Field(4, ge=2)
    """Of every picture; the batch grows by that factor while it is drawn."""
    verifier: str = LIKELIHOOD
    """``likelihood``: the model's own, of the codes; or ``module:function``, from pictures ``[B,3,H,W]`` in [-1,1] to
    scores ``[B]``, higher for better."""
    resample: tuple[NonNegativeInt, ...] = ()
    """Scales after which candidates are drawn anew from all of a picture's, the better ones more often."""
    temperature: PositiveFloat = 1.0
    """Divides the scores, in standard deviations of a picture's candidates; low ones let the best take all places."""
    seed: NonNegativeInt = 0
    """Of the resampling."""
