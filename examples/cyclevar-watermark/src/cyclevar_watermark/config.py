"""Settings of the watermark; torch-free."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveInt

from cyclevar.core.config.base import Settings


class WatermarkConfig(Settings):
    """Who looks for the watermark must know ``key`` and ``scales``."""

    key: str = Field("open", min_length=1, coerce_numbers_to_str=True)
    """The secret; the default is none."""
    strength: NonNegativeFloat = 2.0
    """What is added to the logits of green codes."""
    scales: PositiveInt = 1
    """How many of the finest scales are marked."""
