"""VAR's tokenizer: a convolutional autoencoder around a multi-scale residual quantizer (VAR Algorithms 1-2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from cyclevar.core.extension.manager import get_manager
from cyclevar.core.interfaces.quantizer import Quantizer
from cyclevar.core.interfaces.tokenizer import ScaleState, Tokenizer
from cyclevar.core.networks.autoencoder import Decoder, Encoder
from cyclevar.core.next_scale.pyramid import compose, resize
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.var.config import VarTokenizerConfig
from cyclevar.quantizers.straight_through import straight_through

OWN_QUANTIZER = "index"
"""The quantizer that VAR was published with."""


@lru_cache
def phi_index(scales: int, count: int) -> tuple[int, ...]:
    """Which of ``count`` phi convolutions each of ``scales`` scales uses.

    The nearest of ``count`` evenly spaced ticks to the scale's position in [0,1]. Some positions are exact ties (two of
    the ten scales of the published models); the published choice is the one that float64 rounding of `numpy.linspace`
    makes, so it is computed in just that way.
    """
    margin = 1 / 3 / count if count == 4 else 1 / 2 / count
    ticks = np.linspace(margin, 1 - margin, count)
    return tuple(int(np.argmin(np.abs(ticks - (k / (scales - 1) if scales > 1 else 0.0)))) for k in range(scales))


def area(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize by averaging over cells; the identity at equal size."""
    return resize(maps, size, "area")


def bicubic(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bicubically (corners not aligned, no antialiasing); the identity at equal size."""
    return resize(maps, size, "bicubic")


class VarTokenizer(Tokenizer):
    """Residual maps: each scale quantizes what the coarser ones left over; phi refines it after upsampling."""

    def __init__(self, config: VarTokenizerConfig, schedule: ScaleSchedule) -> None:
        super().__init__()
        self.config = config
        self.channels = config.channels
        self.stride = config.patch * 2 ** (len(config.multipliers) - 1)
        self.default_schedule = schedule
        self.phi_ratio = config.phi_ratio
        shape = (config.width, config.multipliers, config.residual_blocks, config.channels)
        self.encoder = Encoder(*shape, attention=True, patch=config.patch)
        self.decoder = Decoder(*shape, attention=True, patch=config.patch)
        self.before_quantizer = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.after_quantizer = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        own = {"size": config.codebook_size} if config.quantizer == OWN_QUANTIZER else {}
        self.quantizer: Quantizer = get_manager().build(
            "quantizer", config.quantizer, own | config.quantizer_settings, config.channels
        )
        self.phi = nn.ModuleList(
            nn.Conv2d(config.channels, config.channels, 3, padding=1) for _ in range(config.phi_count)
        )

    def encode(self, images: Tensor) -> Tensor:
        latent: Tensor = self.before_quantizer(self.encoder(images))
        return latent

    def decode(self, latent: Tensor, *, clamp: bool = True) -> Tensor:
        images: Tensor = self.decoder(self.after_quantizer(latent))
        return images.clamp(-1, 1) if clamp else images

    def begin(self, batch: int, schedule: ScaleSchedule) -> ScaleState:
        return ScaleState(schedule, 0, self.before_quantizer.weight.new_zeros(batch, self.channels, *schedule.full))

    def target(self, latent: Tensor, state: ScaleState) -> Tensor:
        return area(latent - state.value, state.size)

    def absorb(self, state: ScaleState, part: Tensor) -> ScaleState:
        whole = bicubic(part, state.schedule.full)
        phi = self.phi[phi_index(len(state.schedule), len(self.phi))[state.scale]]
        whole = (1 - self.phi_ratio) * whole + self.phi_ratio * phi(whole)
        return replace(state, scale=state.scale + 1, value=state.value + whole)

    def next_input(self, state: ScaleState) -> Tensor | None:
        return area(state.value, state.size) if state.scale else None

    def latent(self, state: ScaleState) -> Tensor:
        return state.value

    def context(self, maps: Sequence[Tensor], schedule: ScaleSchedule, latent: Tensor | None = None) -> list[Tensor]:
        built = compose(self, maps, schedule)
        final = built if latent is None else straight_through(latent, built)
        return [area(final, size) for size in schedule.sizes]

    def upsample(self, part: Tensor, size: tuple[int, int]) -> Tensor:
        return bicubic(part, size)

    @torch.no_grad()
    def start_quantizing(self) -> None:
        """Phi starts as the identity."""
        for phi in self.phi:
            assert isinstance(phi, nn.Conv2d)
            assert phi.bias is not None
            nn.init.dirac_(phi.weight)
            nn.init.zeros_(phi.bias)
