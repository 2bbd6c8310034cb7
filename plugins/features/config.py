"""Settings of the frozen-feature discriminator (torch-free)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from cyclevar.core.settings import Settings

Level = Annotated[int, Field(ge=0, le=6)]


class FeaturesConfig(Settings):
    """Convolutional heads on several levels of EfficientNet-Lite0 (see `cyclevar.core.features`)."""

    levels: tuple[Level, ...] = (1, 2, 4)
    """Stages of the network to judge by: 0 is the finest, 6 the coarsest."""
    input_size: int = Field(128, ge=32)
    """Side to which pictures are resized before the network sees them."""
    width: PositiveInt = 64
    """Channels inside the heads."""
    augment: tuple[str, ...] = ("translation", "cutout")
    """Parts of DiffAugment to apply first, in order; empty for none."""
