"""Pictures to a pyramid of codes and back: each scale adds what the coarser ones left out (VAR Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from cyclevar.core.interfaces import ScaleState, Tokenizer
from cyclevar.core.pyramid import compose, resize
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.quantizers.straight_through import straight_through
from cyclevar_tinybackbone.config import TinyTokenizerConfig
from cyclevar_tinybackbone.quantizer import GridQuantizer


class TinyTokenizer(Tokenizer):
    """Three convolutions each way; the latent lies in [-1,1], where the grid is."""

    def __init__(self, config: TinyTokenizerConfig, schedule: ScaleSchedule) -> None:
        super().__init__()
        self.config, self.default_schedule = config, schedule
        self.stride, self.channels, width = config.patch, config.channels, config.width
        self.quantizer = GridQuantizer(config.channels, config.levels)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(config.patch),
            nn.Conv2d(3 * config.patch**2, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, config.channels, 1),
            nn.GroupNorm(1, config.channels),  # spread over the grid from the first update on
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.channels, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 3 * config.patch**2, 3, padding=1),
            nn.PixelShuffle(config.patch),
        )

    def encode(self, images: Tensor) -> Tensor:
        return torch.tanh(self.encoder(images))

    def decode(self, latent: Tensor, *, clamp: bool = True) -> Tensor:
        images: Tensor = self.decoder(latent)
        return images.clamp(-1, 1) if clamp else images

    def begin(self, batch: int, schedule: ScaleSchedule) -> ScaleState:
        weight = next(self.parameters())
        return ScaleState(schedule, 0, weight.new_zeros(batch, self.channels, *schedule.full))

    def target(self, latent: Tensor, state: ScaleState) -> Tensor:
        return resize(latent - state.value, state.size, "area")

    def absorb(self, state: ScaleState, part: Tensor) -> ScaleState:
        return replace(state, scale=state.scale + 1, value=state.value + self.upsample(part, state.schedule.full))

    def next_input(self, state: ScaleState) -> Tensor | None:
        return resize(state.value, state.size, "area") if state.scale else None

    def latent(self, state: ScaleState) -> Tensor:
        return state.value

    def context(self, maps: Sequence[Tensor], schedule: ScaleSchedule, latent: Tensor | None = None) -> list[Tensor]:
        built = compose(self, maps, schedule)
        final = built if latent is None else straight_through(latent, built)
        return [resize(final, size, "area") for size in schedule.sizes]

    def upsample(self, part: Tensor, size: tuple[int, int]) -> Tensor:
        return resize(part, size, "bilinear")
