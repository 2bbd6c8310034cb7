"""What the generator and the discriminator of CycleGAN share (arXiv 1703.10593, Sec. 7.1-7.2)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def normalized(convolution: nn.Conv2d | nn.ConvTranspose2d, activation: nn.Module | None = None) -> Iterator[nn.Module]:
    """The layers convolution, instance normalization (without weights) and perhaps an activation."""
    yield convolution
    yield nn.InstanceNorm2d(convolution.out_channels)
    if activation is not None:
        yield activation


def initialize(module: nn.Module) -> None:
    """All convolutions from a Gaussian of standard deviation 0.02, without bias at first."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
