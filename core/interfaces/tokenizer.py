"""Tokenizers: images to latents and back, and the recursion that builds a latent scale by scale."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from torch import Tensor, nn

from cyclevar.core.config.base import Settings
from cyclevar.core.interfaces.quantizer import Quantizer
from cyclevar.core.schedule import ScaleSchedule


class View(NamedTuple):
    """What a training tokenizer decodes, ``latent [B,C,h,w]``, and the ``images [B,3,H,W]`` that it should become."""

    latent: Tensor
    images: Tensor


@dataclass(frozen=True)
class ScaleState:
    """A latent under construction: ``value`` after the first ``scale`` maps of ``schedule`` were absorbed."""

    schedule: ScaleSchedule
    scale: int
    value: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Size ``(h_k, w_k)`` of the map that comes next."""
        return self.schedule.sizes[self.scale]


class Tokenizer(nn.Module, ABC):
    """Images to latents, latents to images, and the recursion that builds a latent scale by scale.

    The recursion is pure: no method changes what it was given, so a state can be kept, selected or rewound.
    """

    stride: int
    """Side, in pixels, of a cell of the finest map."""
    channels: int
    """Channels of the latent."""
    quantizer: Quantizer
    default_schedule: ScaleSchedule
    config: Settings

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Images ``[B,3,H,W]`` in [-1,1] to continuous latents ``[B,C,h,w]``."""

    @abstractmethod
    def decode(self, latent: Tensor, *, clamp: bool = True) -> Tensor:
        """Latents to images in [-1,1]; ``clamp=False`` leaves values outside, for losses with gradients there."""

    @abstractmethod
    def begin(self, batch: int, schedule: ScaleSchedule) -> ScaleState:
        """The empty state, before the first scale."""

    @abstractmethod
    def target(self, latent: Tensor, state: ScaleState) -> Tensor:
        """What the map of scale ``state.scale`` should encode so that the states approach ``latent``."""

    @abstractmethod
    def absorb(self, state: ScaleState, part: Tensor) -> ScaleState:
        """The state after the map ``part`` of scale ``state.scale``."""

    @abstractmethod
    def next_input(self, state: ScaleState) -> Tensor | None:
        """The map that a backbone reads at scale ``state.scale``; None at scale 0, where the start token stands."""

    @abstractmethod
    def latent(self, state: ScaleState) -> Tensor:
        """The latent built so far, at full size; of a partial state, a preview."""

    @abstractmethod
    def context(self, maps: Sequence[Tensor], schedule: ScaleSchedule, latent: Tensor | None = None) -> list[Tensor]:
        """F_1..F_K, the source features of every scale that a translating backbone reads (CycleVAR Eq. 5).

        With the continuous ``latent`` that ``maps`` quantize, gradients pass straight through to it.
        """

    @abstractmethod
    def upsample(self, part: Tensor, size: tuple[int, int]) -> Tensor:
        """A map at the size of a finer scale, with the kernel of this family."""

    def as_latent(self, part: Tensor) -> Tensor:
        """A full-size map in the layout of the latent (they differ where maps are patchified)."""
        return part

    # What only training asks for, with answers that fit a latent which all scales build together.

    def training_schedule(self, random: Random) -> ScaleSchedule:
        """The schedule of one update; ``random`` is keyed to its step."""
        return self.default_schedule

    def corrupt(self, codes: Tensor, scale: int, random: Random) -> Tensor:
        """The codes of a scale as a backbone in pre-training is to see them in what it reads: here the right ones.

        A family that samples with errors may put some into its lessons; ``random`` is keyed to the update.
        """
        return codes

    def unquantized(self, latent: Tensor) -> Tensor:
        """A continuous latent as `decode` reads it where there are no codes yet."""
        return latent

    def start_quantizing(self) -> None:
        """Before the first codes: a neutral beginning for the parameters that the recursion has, if it has any."""

    def approximations(
        self, latent: Tensor, codes: Sequence[Tensor], schedule: ScaleSchedule
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Of every scale, what its codes make and what that should be, with gradients to code book and ``latent``.

        Here each partial sum, against the whole latent (VAR's objective).
        """
        state = self.begin(latent.shape[0], schedule)
        for part in codes:
            state = self.absorb(state, self.quantizer.lookup(part).movedim(-1, 1))
            yield self.latent(state), latent

    def views(
        self, maps: Sequence[Tensor], schedule: ScaleSchedule, images: Tensor, latent: Tensor | None = None
    ) -> list[View]:
        """What to decode of the quantized ``maps`` of ``images``, the full size last; ``latent`` as in `context`."""
        return [View(self.as_latent(self.context(maps, schedule, latent)[-1]), images)]
