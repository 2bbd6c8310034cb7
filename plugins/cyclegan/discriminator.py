"""The patch discriminator of pix2pix (arXiv 1611.07004, Sec. 6.1.2) as CycleGAN uses it: one logit a patch."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from cyclevar.core.interfaces.criteria import Discriminator
from cyclevar.plugins.cyclegan.config import Patchgan70Config
from cyclevar.plugins.cyclegan.layers import initialize, normalized


class Patchgan70(Discriminator):
    """C64-C128-C256-C512: 4x4 convolutions, instance normalization from the second on, leaky ReLU of slope 0.2."""

    def __init__(self, config: Patchgan70Config) -> None:
        super().__init__()
        widths = [config.width * min(2**level, 8) for level in range(config.levels + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
            stride = 2 if level < config.levels else 1
            layers += normalized(nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1), nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))
        initialize(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.layers(images)]


def build(config: Patchgan70Config) -> Patchgan70:
    """A discriminator for one domain."""
    return Patchgan70(config)
