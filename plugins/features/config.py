"""Settings of the frozen-feature discriminator (torch-free)."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt

from cyclevar.core.config.base import Settings


class FeaturesConfig(Settings):
    """Convolutional heads on several levels of a frozen network."""

    net: str = "efficientnet_lite0"
    """EfficientNet-Lite0 (see `core.networks.feature_net`), which is always there, or any model of timm, such as
    ``vit_base_patch8_224.dino``."""
    weights: str | None = None
    """The file with the weights of a timm model; None: it lies in a folder that CYCLEVAR_MODELS names, or in the hub's
    cache."""
    levels: tuple[NonNegativeInt, ...] | None = None
    """Levels of the network to judge by, 0 the first; None: 1, 2 and 4 of the seven stages of EfficientNet-Lite0,
    else those at one third and two thirds."""
    input_size: int | None = Field(None, ge=32)
    """Side to which pictures are resized first; None: 128 for EfficientNet-Lite0, else what the network expects."""
    width: PositiveInt = 64
    """Channels inside the heads."""
    augment: tuple[str, ...] = ("translation", "cutout")
    """Parts of DiffAugment to apply first, in order; empty for none."""
