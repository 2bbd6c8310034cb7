"""The discriminator of CycleVAR (Sec. 3.4): a frozen CLIP feature extractor under trained heads.

It follows CycleGAN-Turbo (arXiv 2403.12036), which takes it from vision-aided GAN (Kumari et al., arXiv 2112.09130):
heads on the tokens of two blocks and on the pooled embedding, spectral norm, DiffAugment. The convolutional heads are
those of `cyclevar.core.networks.discriminator_heads`, without that work's blur.
"""

from __future__ import annotations

from torch import Tensor, nn

from cyclevar.core.errors import ConfigError
from cyclevar.core.networks.discriminator_heads import FrozenFeatureDiscriminator, MapHead, VectorHead, spread_levels
from cyclevar.core.networks.feature_net import FrozenNet
from cyclevar.plugins.clip.config import ClipConfig
from cyclevar.plugins.clip.tower import ClipTower, load_tower


class ClipDiscriminator(FrozenFeatureDiscriminator):
    """Convolutional heads on the tokens of ``levels``, if any, then a perceptron on the pooled embedding."""

    def __init__(self, config: ClipConfig) -> None:
        """Raises `ConfigError` for a level that the tower does not have, and what `load_tower` raises."""
        tower = load_tower(config.model, config.pretrained, config.weights)
        depth = len(tower.channels)
        levels = spread_levels(depth) if config.levels is None else config.levels
        if levels and max(levels) >= depth:
            raise ConfigError(f"levels has {max(levels)}", expected=f"blocks 0 to {depth - 1} of {config.model}")
        judged: tuple[int, ...] = tuple(sorted(levels)) if config.head == "multilevel" else ()
        heads: list[nn.Module] = [MapHead(tower.channels[level], config.width) for level in judged]
        super().__init__(tower, [*heads, VectorHead(tower.pooled_channels, config.width)], config.augment)
        self.levels = judged
        self.frozen = f"{tower.name} {tower.weights_sha256[:16]}"

    def look(self, net: FrozenNet, images: Tensor) -> list[Tensor]:
        assert isinstance(net, ClipTower)
        seen = net(images, self.levels)
        return [*seen.maps, seen.pooled]


def build(config: ClipConfig) -> ClipDiscriminator:
    """A discriminator for one domain."""
    return ClipDiscriminator(config)
