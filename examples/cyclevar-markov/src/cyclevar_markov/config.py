"""Settings of the visibility; torch-free."""

from __future__ import annotations

from typing import Self

from pydantic import NonNegativeInt, model_validator

from cyclevar.core.config.base import Settings


class MarkovConfig(Settings):
    """Who sees whom. The defaults need no cache."""

    coarser: NonNegativeInt = 0
    """How many coarser scales a scale sees beside itself: 0, or 1 for the neighbouring one."""
    window: NonNegativeInt = 0
    """Side of the window of tokens that a token sees of each of them; 0 for all."""

    @model_validator(mode="after")
    def _has_a_middle(self) -> Self:
        if self.window and self.window % 2 == 0:
            raise ValueError("window an odd number, so that it has a middle, or 0")
        return self
