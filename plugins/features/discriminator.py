"""Heads on frozen features (in the manner of Projected GAN, arXiv 2111.01007, without its random projections)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cyclevar.core.augment import augment, check_parts
from cyclevar.core.features import load_feature_net
from cyclevar.core.interfaces import Discriminator
from cyclevar.plugins.features.config import FeaturesConfig


class Head(nn.Module):
    """A 1x1 and a 3x3 convolution over one level's map, one logit a position."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, affine=False)
        self.mix = spectral_norm(nn.Conv2d(channels, width, 1))
        self.hidden = spectral_norm(nn.Conv2d(width, width, 3, padding=1))
        self.out = spectral_norm(nn.Conv2d(width, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        h = F.leaky_relu(self.mix(self.norm(maps)), 0.2)
        h = F.leaky_relu(self.hidden(h), 0.2)
        logits: Tensor = self.out(h)
        return logits


class FeatureDiscriminator(Discriminator):
    """One head a level; the network under them is frozen, shared in memory, and not part of the saved state."""

    def __init__(self, config: FeaturesConfig) -> None:
        super().__init__()
        self.parts, self.levels = check_parts(config.augment), config.levels
        net = load_feature_net(input_size=config.input_size)
        channels = [16, 24, 40, 80, 112, 192, 320]
        self.heads = nn.ModuleList(Head(channels[level], config.width) for level in config.levels)
        self._frozen = [net]  # in a list: neither a parameter nor a part of the state

    def forward(self, images: Tensor) -> list[Tensor]:
        net = self._frozen[0].to(images.device)
        maps = net.maps(augment(images, self.parts), max(self.levels) + 1)
        return [head(maps[level]) for head, level in zip(self.heads, self.levels, strict=True)]


def build(config: FeaturesConfig) -> FeatureDiscriminator:
    """A discriminator for one domain."""
    return FeatureDiscriminator(config)
