"""FlexVAR's tokenizer: every scale is a picture of its own, quantized from the latent at its size (Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

import torch.nn.functional as F
from torch import Tensor, nn

from cyclevar.core.interfaces.tokenizer import ScaleState, Tokenizer, View
from cyclevar.core.networks.autoencoder import Decoder, Encoder
from cyclevar.core.next_scale.pyramid import resize
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.flexvar.config import FlexVarTokenizerConfig
from cyclevar.plugins.flexvar.schedules import fit_sides
from cyclevar.quantizers.index import IndexQuantizer
from cyclevar.quantizers.straight_through import straight_through

TRAINED_SIZES = 5
"""Sizes that an update of the tokenizer trains, the full one among them (K in Sec. 3.2)."""


class FlexVarTokenizer(Tokenizer):
    """Unit vectors throughout, and no residuals: the state is the last map alone, at its own size."""

    quantizer: IndexQuantizer

    def __init__(self, config: FlexVarTokenizerConfig, schedule: ScaleSchedule) -> None:
        super().__init__()
        self.config = config
        self.channels = config.channels
        self.stride = config.patch * 2 ** (len(config.multipliers) - 1)
        self.default_schedule = schedule
        shape = (config.width, config.multipliers, config.residual_blocks, config.z_channels)
        self.encoder = Encoder(*shape, attention=True, patch=config.patch)
        self.decoder = Decoder(*shape, attention=True, patch=config.patch)
        around = config.kernel // 2
        self.before_quantizer = nn.Conv2d(config.z_channels, config.channels, config.kernel, padding=around)
        self.after_quantizer = nn.Conv2d(config.channels, config.z_channels, config.kernel, padding=around)
        self.quantizer = IndexQuantizer(config.codebook_size, config.channels, metric="cosine")

    def encode(self, images: Tensor) -> Tensor:
        latent: Tensor = self.before_quantizer(self.encoder(images))
        return latent

    def decode(self, latent: Tensor, *, clamp: bool = True) -> Tensor:
        """Latents of any size to images; the maps of single scales are such latents too."""
        images: Tensor = self.decoder(self.after_quantizer(latent))
        return images.clamp(-1, 1) if clamp else images

    def begin(self, batch: int, schedule: ScaleSchedule) -> ScaleState:
        return ScaleState(schedule, 0, self.quantizer.codebook.new_zeros(batch, self.channels, *schedule.full))

    def target(self, latent: Tensor, state: ScaleState) -> Tensor:
        return resize(latent, state.size, "area")

    def absorb(self, state: ScaleState, part: Tensor) -> ScaleState:
        return replace(state, scale=state.scale + 1, value=part)

    def next_input(self, state: ScaleState) -> Tensor | None:
        return resize(state.value, state.size, "bicubic") if state.scale else None

    def latent(self, state: ScaleState) -> Tensor:
        return resize(state.value, state.schedule.full, "bicubic")

    def context(self, maps: Sequence[Tensor], schedule: ScaleSchedule, latent: Tensor | None = None) -> list[Tensor]:
        """Each scale's own map: there is nothing to sum up, so gradients pass straight through scale by scale."""
        if latent is None:
            return list(maps)
        targets = self._targets(latent, schedule)
        return [straight_through(target, part) for target, part in zip(targets, maps, strict=True)]

    def upsample(self, part: Tensor, size: tuple[int, int]) -> Tensor:
        return resize(part, size, "bicubic")

    def _targets(self, latent: Tensor, schedule: ScaleSchedule) -> Iterator[Tensor]:
        """The unit vectors that every scale's codes stand for."""
        for size in schedule.sizes:
            yield F.normalize(resize(latent, size, "area"), dim=1)

    def training_schedule(self, random: Random) -> ScaleSchedule:
        """Random sizes below the full one, which comes last."""
        size = self.default_schedule.full
        below = range(1, max(size))
        sides = sorted(random.sample(below, min(TRAINED_SIZES - 1, len(below))))
        return ScaleSchedule((*fit_sides(sides, size), size))

    def unquantized(self, latent: Tensor) -> Tensor:
        return F.normalize(latent, dim=1)

    def approximations(
        self, latent: Tensor, codes: Sequence[Tensor], schedule: ScaleSchedule
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for part, target in zip(codes, self._targets(latent, schedule), strict=True):
            yield self.quantizer.lookup(part).movedim(-1, 1), target

    def views(
        self, maps: Sequence[Tensor], schedule: ScaleSchedule, images: Tensor, latent: Tensor | None = None
    ) -> list[View]:
        """Every scale by itself, with the pictures at its size."""
        sizes = [(height * self.stride, width * self.stride) for height, width in schedule.sizes]
        return [
            View(part, resize(images, size, "area"))
            for part, size in zip(self.context(maps, schedule, latent), sizes, strict=True)
        ]
