"""Pictures to a pyramid of codes and back: each scale adds what the coarser ones left out (VAR Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor, nn

from cyclevar.core.interfaces import ScaleState, Tokenizer
from cyclevar.core.next_scale.pyramid import compose, resize
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.quantizers.straight_through import straight_through
from cyclevar_tinybackbone.config import TinyTokenizerConfig
from cyclevar_tinybackbone.quantizer import GridQuantizer


def convolutions(inputs: int, width: int, outputs: int) -> Iterator[nn.Module]:
    """Three of them, with GELU between."""
    for before, after in ((inputs, width), (width, width)):
        yield from (nn.Conv2d(before, after, 3, padding=1), nn.GELU())
    yield nn.Conv2d(width, outputs, 3, padding=1)


class TinyTokenizer(Tokenizer):
    """Three convolutions each way; the latent lies in [-1,1], where the grid is."""

    def __init__(self, config: TinyTokenizerConfig, schedule: ScaleSchedule) -> None:
        super().__init__()
        self.config, self.default_schedule, self.stride, self.channels = config, schedule, config.patch, config.channels
        self.quantizer = GridQuantizer(config.channels, config.levels)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(config.patch),
            *convolutions(3 * config.patch**2, config.width, config.channels),
            nn.GroupNorm(1, config.channels),  # spread over the grid from the first update on
            nn.Tanh(),
        )
        self.decoder = nn.Sequential(
            *convolutions(config.channels, config.width, 3 * config.patch**2), nn.PixelShuffle(config.patch)
        )

    def encode(self, images: Tensor) -> Tensor:
        latent: Tensor = self.encoder(images)
        return latent

    def decode(self, latent: Tensor, *, clamp: bool = True) -> Tensor:
        images: Tensor = self.decoder(latent)
        return images.clamp(-1, 1) if clamp else images

    def begin(self, batch: int, schedule: ScaleSchedule) -> ScaleState:
        return ScaleState(schedule, 0, next(self.parameters()).new_zeros(batch, self.channels, *schedule.full))

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
