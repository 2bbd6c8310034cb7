"""The generator of CycleGAN (arXiv 1703.10593, Sec. 7.2; after Johnson et al., arXiv 1603.08155)."""

from __future__ import annotations

from torch import Tensor, nn

from cyclevar.core.models.direct import DirectModel
from cyclevar.plugins.cyclegan.config import CycleganConfig
from cyclevar.plugins.cyclegan.layers import initialize, normalized


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with reflected borders, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *normalized(nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
            *normalized(nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect")),
        )

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.layers(x)
        return x + change


class ResidualGenerator(nn.Sequential):
    """c7s1-64, d128, d256, R256 ..., u128, u64, c7s1-3 in the paper's notation: ``[B,3,H,W]`` to ``[B,3,H,W]``."""

    def __init__(self, config: CycleganConfig) -> None:
        width = config.width
        super().__init__(
            *normalized(nn.Conv2d(3, width, 7, padding=3, padding_mode="reflect"), nn.ReLU()),
            *normalized(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU()),
            *normalized(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1), nn.ReLU()),
            *(ResidualBlock(4 * width) for _ in range(config.residual_blocks)),
            *normalized(nn.ConvTranspose2d(4 * width, 2 * width, 3, 2, padding=1, output_padding=1), nn.ReLU()),
            *normalized(nn.ConvTranspose2d(2 * width, width, 3, 2, padding=1, output_padding=1), nn.ReLU()),
            nn.Conv2d(width, 3, 7, padding=3, padding_mode="reflect"),
            nn.Tanh(),
        )
        initialize(self)


def build(config: CycleganConfig) -> DirectModel:
    """Both generators with fresh weights."""
    return DirectModel("cyclegan", config, [ResidualGenerator(config) for _ in range(2)])
