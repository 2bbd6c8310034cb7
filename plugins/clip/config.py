"""Settings of the CLIP discriminator (torch-free)."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from cyclevar.core.config.base import Settings


class ClipConfig(Settings):
    """Heads on the frozen image tower of any open_clip model."""

    model: str = "ViT-B-32"
    """A model of open_clip, by its name there."""
    pretrained: str = "openai"
    """open_clip's name for the published weights: it decides the activation, mean and deviation that they need, and
    which file is looked for."""
    weights: str | None = None
    """The file with these weights; None: it lies in a folder that CYCLEVAR_MODELS names, or in the hub's cache."""
    head: Literal["multilevel", "mlp"] = "multilevel"
    """``multilevel``: convolutional heads on the tokens of two blocks and a perceptron on the pooled embedding, as
    vision-aided GAN and CycleGAN-Turbo have it; ``mlp``: the perceptron alone."""
    levels: tuple[NonNegativeInt, ...] | None = None
    """Blocks whose tokens are judged, from 0; None: those at one third and two thirds (3 and 7 of 12)."""
    width: PositiveInt = 256
    """Channels inside the heads."""
    augment: tuple[str, ...] = ("color", "translation", "cutout")
    """Parts of DiffAugment to apply first, in order; empty for none."""
