"""Infinity's tokenizer: a convolutional autoencoder around a bitwise residual quantizer (Infinity Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.config.families import Size
from cyclevar.core.interfaces.tokenizer import ScaleState, Tokenizer
from cyclevar.core.networks.autoencoder import Decoder, Encoder
from cyclevar.core.next_scale.pyramid import compose, resize
from cyclevar.core.runtime.batch_random import draw
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.infinity.config import InfinityTokenizerConfig
from cyclevar.quantizers.bitwise import BitwiseQuantizer
from cyclevar.quantizers.straight_through import straight_through


class InfinityTokenizer(Tokenizer):
    """Residual maps of bits, summed after bilinear upsampling.

    With ``patchify`` the schedule counts squares of 2x2 cells: a map has four cells in its channels (channel
    ``4*c + 2*row + column``), while states and latents have them side by side.
    """

    quantizer: BitwiseQuantizer
    config: InfinityTokenizerConfig

    def __init__(self, config: InfinityTokenizerConfig, schedule: ScaleSchedule, *, patchify: bool = False) -> None:
        super().__init__()
        self.config = config
        self.side = 2 if patchify else 1
        self.channels = config.bits
        self.stride = config.patch * self.side
        self.default_schedule = schedule
        shape = (config.width, config.multipliers, config.residual_blocks, config.bits)
        self.encoder = Encoder(*shape, attention=config.attention, patch=config.unshuffle)
        self.decoder = Decoder(*shape, attention=config.attention, patch=config.unshuffle)
        self.quantizer = BitwiseQuantizer(config.bits, config.quantizer, self.side**2)

    def encode(self, images: Tensor) -> Tensor:
        latent: Tensor = self.encoder(images)
        return latent

    def decode(self, latent: Tensor, *, clamp: bool = True) -> Tensor:
        images: Tensor = self.decoder(latent)
        return images.clamp(-1, 1) if clamp else images

    def begin(self, batch: int, schedule: ScaleSchedule) -> ScaleState:
        device = next(self.parameters()).device
        return ScaleState(schedule, 0, torch.zeros(batch, self.channels, *self._cells(schedule.full), device=device))

    def target(self, latent: Tensor, state: ScaleState) -> Tensor:
        return self._fold(resize(latent - state.value, self._cells(state.size), "area"))

    def absorb(self, state: ScaleState, part: Tensor) -> ScaleState:
        whole = resize(self.as_latent(part), self._cells(state.schedule.full), "bilinear")
        return replace(state, scale=state.scale + 1, value=state.value + whole)

    def next_input(self, state: ScaleState) -> Tensor | None:
        return self._at(state.value, state.size) if state.scale else None

    def latent(self, state: ScaleState) -> Tensor:
        return state.value

    def context(self, maps: Sequence[Tensor], schedule: ScaleSchedule, latent: Tensor | None = None) -> list[Tensor]:
        built = compose(self, maps, schedule)
        final = built if latent is None else straight_through(latent, built)
        return [self._at(final, size) for size in schedule.sizes]

    def upsample(self, part: Tensor, size: Size) -> Tensor:
        return self._at(self.as_latent(part), size)

    def as_latent(self, part: Tensor) -> Tensor:
        return F.pixel_shuffle(part, self.side)

    def corrupt(self, codes: Tensor, scale: int, random: Random) -> Tensor:
        """Bitwise self-correction: a share of the bits, drawn for each scale, is flipped (Infinity Sec. 3.4)."""
        if scale >= self.config.flip_scales:
            return codes
        share = random.randint(0, round(100 * self.config.flip_strength)) / 100
        generator = torch.Generator().manual_seed(random.getrandbits(63))
        chances = draw(len(codes), lambda count: torch.rand(count, *codes.shape[1:], generator=generator))
        return codes ^ (chances < share).to(codes.device)

    def _cells(self, size: Size) -> Size:
        """The size of a map in cells of the latent."""
        return size[0] * self.side, size[1] * self.side

    def _fold(self, latent: Tensor) -> Tensor:
        """A latent of any size as a map."""
        return F.pixel_unshuffle(latent, self.side)

    def _at(self, latent: Tensor, size: Size) -> Tensor:
        """What a backbone reads of a latent at a scale."""
        return self._fold(resize(latent, self._cells(size), "bilinear"))
