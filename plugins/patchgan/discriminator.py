"""A patch discriminator trained from scratch (pix2pix's PatchGAN, with spectral norm)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cyclevar.core.interfaces.criteria import Discriminator
from cyclevar.core.networks.diff_augment import augment, check_parts
from cyclevar.plugins.patchgan.config import PatchganConfig


class PatchDiscriminator(Discriminator):
    """Strided convolutions; one logit a patch, and one for the whole picture from its averaged features."""

    def __init__(self, config: PatchganConfig) -> None:
        super().__init__()
        self.parts = check_parts(config.augment)
        widths = [config.width * 2**i for i in range(config.levels)]
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1))
            for inputs, outputs in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.mix = spectral_norm(nn.Conv2d(widths[-1], widths[-1], 3, padding=1))
        self.patch_head = spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))
        self.picture_head = spectral_norm(nn.Linear(widths[-1], 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        h = augment(images, self.parts)
        for layer in self.down:
            h = F.leaky_relu(layer(h), 0.2)
        h = F.leaky_relu(self.mix(h), 0.2)
        return [self.patch_head(h), self.picture_head(h.mean((2, 3)))]


def build(config: PatchganConfig) -> PatchDiscriminator:
    """A discriminator for one domain."""
    return PatchDiscriminator(config)
