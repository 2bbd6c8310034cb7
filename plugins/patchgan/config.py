"""Settings of the patch discriminator (torch-free)."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from cyclevar.core.config.base import Settings


class PatchganConfig(Settings):
    """A spectral-norm patch discriminator behind differentiable augmentation."""

    width: PositiveInt = 48
    levels: int = Field(3, ge=1, le=6)
    augment: tuple[str, ...] = ("translation", "cutout")
    """Parts of DiffAugment (color, translation, cutout) to apply to what the discriminator sees, in order, or none.
    Colour is left alone by default, since it is part of what tells two styles apart."""
