"""Heads on frozen features (in the manner of Projected GAN, arXiv 2111.01007, without its random projections)."""

from __future__ import annotations

from torch import Tensor

from cyclevar.core.errors import ConfigError
from cyclevar.core.networks.discriminator_heads import FrozenFeatureDiscriminator, MapHead, spread_levels
from cyclevar.core.networks.feature_net import FeatureNet, FrozenNet, load_feature_net
from cyclevar.plugins.features.config import FeaturesConfig
from cyclevar.plugins.features.timm_net import TimmNet, load_timm_net

LITE0_CHANNELS = (16, 24, 40, 80, 112, 192, 320)
LITE0_LEVELS = (1, 2, 4)


class FeatureDiscriminator(FrozenFeatureDiscriminator):
    """One head a level; the network under them is frozen, shared in memory, and not part of the saved state."""

    def __init__(self, config: FeaturesConfig) -> None:
        """Raises `ConfigError` for a level that the network does not have, and what loading it raises."""
        net: FeatureNet | TimmNet
        channels: tuple[int, ...]
        usual: tuple[int, ...]
        if config.net == "efficientnet_lite0":
            net = load_feature_net(input_size=config.input_size or 128)
            channels, usual = LITE0_CHANNELS, LITE0_LEVELS
            if config.weights is not None:
                raise ConfigError(
                    f"weights are given for {config.net}, which brings its own", expected="them with a timm model"
                )
        else:
            net = load_timm_net(config.net, config.weights, config.input_size)
            channels, usual = net.channels, spread_levels(len(net.channels))
        levels = usual if config.levels is None else config.levels
        if not levels or max(levels) >= len(channels):
            raise ConfigError(
                f"levels is {list(levels)}", expected=f"some of the levels 0 to {len(channels) - 1} of {config.net}"
            )
        super().__init__(net, [MapHead(channels[level], config.width) for level in levels], config.augment)
        self.levels = tuple(levels)
        if isinstance(net, TimmNet):
            self.frozen = f"{net.name} {net.weights_sha256[:16]}"

    def look(self, net: FrozenNet, images: Tensor) -> list[Tensor]:
        if isinstance(net, TimmNet):
            return net.maps(images, self.levels)
        assert isinstance(net, FeatureNet)
        maps = net.maps(images, max(self.levels) + 1)
        return [maps[level] for level in self.levels]


def build(config: FeaturesConfig) -> FeatureDiscriminator:
    """A discriminator for one domain."""
    return FeatureDiscriminator(config)
