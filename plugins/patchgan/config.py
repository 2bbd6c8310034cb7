"""Settings of the patch discriminator (torch-free)."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from cyclevar.core.settings import Settings


class PatchganConfig(Settings):
    """A spectral-norm patch discriminator behind differentiable augmentation."""

    width: PositiveInt = 48
    levels: int = Field(3, ge=1, le=6)
    augment: tuple[str, ...] = ("color", "translation", "cutout")
    """Parts of DiffAugment to apply to what the discriminator sees, in order; empty for none."""
