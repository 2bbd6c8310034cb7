"""The convolutional encoder and decoder that the tokenizers share (the topology of latent diffusion's autoencoder).

Channels first throughout. A level is a run of residual blocks at one resolution; level 0 is the finest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cyclevar.core.errors import ConfigError


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with 32 groups, or 24 where 32 does not divide the channels."""
    groups = next((count for count in (32, 24) if channels % count == 0), None)
    if groups is None:
        raise ConfigError(f"an autoencoder cannot have {channels} channels", expected="a multiple of 32 or 24")
    return nn.GroupNorm(groups, channels, eps=1e-6)


class Residual(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, around a shortcut (1x1 where the channels change)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = group_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut: nn.Module = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.shortcut(x) + h
        return out


class SpatialAttention(nn.Module):
    """Single-head self-attention over all positions, full channel width, around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = x + self.out(mixed.squeeze(1).transpose(1, 2).unflatten(2, x.shape[-2:]))
        return out


class Downsample(nn.Module):
    """3x3 convolution with stride 2, padded on the right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Recomputing(nn.Module):
    """A module that can compute its parts again in the backward pass instead of keeping their insides."""

    gradient_checkpointing: bool = False
    """Set by `recompute`."""

    def run(self, part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What ``part`` makes of ``x``."""
        again = self.gradient_checkpointing and x.requires_grad and torch.is_grad_enabled()
        out: Tensor = checkpoint(part, x, use_reentrant=False) if again else part(x)
        return out


def recompute(module: nn.Module, wanted: bool) -> None:
    """Let all parts of encoders and decoders in ``module`` be computed again in the backward pass, or not."""
    for part in module.modules():
        if isinstance(part, Recomputing):
            part.gradient_checkpointing = wanted


class Level(Recomputing):
    """Residual blocks at one resolution, each followed by attention if asked for, then a change of resolution."""

    def __init__(self, inputs: int, outputs: int, blocks: int, attention: bool, resample: nn.Module) -> None:
        super().__init__()
        self.residuals = nn.ModuleList(Residual(inputs if i == 0 else outputs, outputs) for i in range(blocks))
        self.attentions = nn.ModuleList(SpatialAttention(outputs) for _ in range(blocks if attention else 0))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for i, residual in enumerate(self.residuals):
            x = self.run(residual, x)
            if self.attentions:
                x = self.run(self.attentions[i], x)
        return self.run(self.resample, x)


def middle(channels: int, attention: bool) -> nn.Sequential:
    """Residual, attention (or nothing), residual, at the coarsest resolution."""
    between: nn.Module = SpatialAttention(channels) if attention else nn.Identity()
    return nn.Sequential(Residual(channels, channels), between, Residual(channels, channels))


class Encoder(Recomputing):
    """Pictures ``[B,3,H,W]`` to features ``[B,outputs,H/s,W/s]`` with ``s = patch * 2**(levels-1)``.

    ``patch`` folds patches of pixels into channels before the first convolution (1: none, as in the published models).
    """

    def __init__(
        self, width: int, multipliers: Sequence[int], blocks: int, outputs: int, *, attention: bool, patch: int = 1
    ) -> None:
        super().__init__()
        channels = [width * m for m in multipliers]
        last = len(channels) - 1
        self.fold: nn.Module = nn.PixelUnshuffle(patch) if patch > 1 else nn.Identity()
        self.stem = nn.Conv2d(3 * patch**2, width, 3, padding=1)
        self.levels = nn.ModuleList(
            Level(
                channels[i - 1] if i else width,
                channels[i],
                blocks,
                attention and i == last,
                nn.Identity() if i == last else Downsample(channels[i]),
            )
            for i in range(len(channels))
        )
        self.middle = middle(channels[-1], attention)
        self.norm = group_norm(channels[-1])
        self.out = nn.Conv2d(channels[-1], outputs, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        h = self.stem(self.fold(images))
        for level in self.levels:
            h = level(h)
        for part in self.middle:
            h = self.run(part, h)
        return self.run(self._finish, h)

    def _finish(self, h: Tensor) -> Tensor:
        out: Tensor = self.out(F.silu(self.norm(h)))
        return out


class Decoder(Recomputing):
    """Features ``[B,inputs,h,w]`` to pictures ``[B,3,h*s,w*s]``, the mirror of `Encoder` with one more block a level.

    ``levels[0]`` is the finest, so they run in reverse.
    """

    def __init__(
        self, width: int, multipliers: Sequence[int], blocks: int, inputs: int, *, attention: bool, patch: int = 1
    ) -> None:
        super().__init__()
        channels = [width * m for m in multipliers]
        last = len(channels) - 1
        self.stem = nn.Conv2d(inputs, channels[-1], 3, padding=1)
        self.middle = middle(channels[-1], attention)
        self.levels = nn.ModuleList(
            Level(
                channels[min(i + 1, last)],
                channels[i],
                blocks + 1,
                attention and i == last,
                Upsample(channels[i]) if i else nn.Identity(),
            )
            for i in range(len(channels))
        )
        self.norm = group_norm(channels[0])
        self.out = nn.Conv2d(channels[0], 3 * patch**2, 3, padding=1)
        self.unfold: nn.Module = nn.PixelShuffle(patch) if patch > 1 else nn.Identity()

    def forward(self, latent: Tensor) -> Tensor:
        h = self.stem(latent)
        for part in self.middle:
            h = self.run(part, h)
        for level in reversed(list(self.levels)):
            h = level(h)
        return self.run(self._finish, h)

    def _finish(self, h: Tensor) -> Tensor:
        out: Tensor = self.unfold(self.out(F.silu(self.norm(h))))
        return out
