"""The multi-scale recursion, written once over the `Tokenizer` interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces.tokenizer import Tokenizer
from cyclevar.core.schedule import ScaleSchedule


@dataclass(frozen=True)
class Pyramid:
    """A latent as a pyramid of codes.

    ``codes``: one int64 ``[B,h_k,w_k]`` (or bits) a scale; ``maps``: their vectors R_k ``[B,C,h_k,w_k]``, detached;
    ``latent``: the quantized latent F ``[B,C,h,w]``, detached.
    """

    codes: tuple[Tensor, ...]
    maps: tuple[Tensor, ...]
    latent: Tensor


def resize(maps: Tensor, size: tuple[int, int], mode: Literal["area", "bicubic", "bilinear"]) -> Tensor:
    """Maps ``[B,C,h,w]`` at another size (corners not aligned, no antialiasing); the identity at equal size."""
    return maps if tuple(maps.shape[-2:]) == size else F.interpolate(maps, size=size, mode=mode)


@torch.no_grad()
def tokenize(
    tokenizer: Tokenizer, latent: Tensor, schedule: ScaleSchedule, *, corrupt: Random | None = None
) -> Pyramid:
    """Quantize a latent scale by scale (VAR Algorithm 1).

    Carries no gradient: the straight-through path of the whole quantizer is laid once, by `Tokenizer.context`.

    With ``corrupt`` the maps are those of codes that `Tokenizer.corrupt` changed, and each scale's codes are the right
    ones for what the corrupted coarser maps left over: lessons in self-correction.

    Raises `ConfigError` for a schedule that does not end at the size of ``latent``.
    """
    state = tokenizer.begin(latent.shape[0], schedule)
    made, wanted = (tuple(one.shape[-2:]) for one in (tokenizer.latent(state), latent))
    if made != wanted:
        raise ConfigError(
            f"the schedule {schedule} builds a latent of {made[0]}x{made[1]} cells",
            expected=f"{wanted[0]}x{wanted[1]}, the size of the pictures' latent",
            hint="give pictures of another size, or a schedule that ends at theirs",
        )
    codes, maps = [], []
    for scale in range(len(schedule)):
        quantized = tokenizer.quantizer.quantize(tokenizer.target(latent, state))
        codes.append(quantized.codes)
        part = quantized.maps
        if corrupt is not None:
            part = tokenizer.quantizer.lookup(tokenizer.corrupt(quantized.codes, scale, corrupt)).movedim(-1, 1)
        maps.append(part)
        state = tokenizer.absorb(state, part)
    return Pyramid(tuple(codes), tuple(maps), tokenizer.latent(state))


def compose(
    tokenizer: Tokenizer, maps: Sequence[Tensor], schedule: ScaleSchedule, *, last_only: bool = False
) -> Tensor:
    """The latent ``[B,C,h,w]`` that the maps of all scales build, or that the last builds alone (Eq. 9, Table 4)."""
    state = tokenizer.begin(maps[-1].shape[0], schedule)
    if last_only:
        state, maps = replace(state, scale=len(schedule) - 1), maps[-1:]
    for part in maps:
        state = tokenizer.absorb(state, part)
    return tokenizer.latent(state)


def teacher_inputs(tokenizer: Tokenizer, maps: Sequence[Tensor], schedule: ScaleSchedule) -> list[Tensor | None]:
    """What a backbone reads at every scale when the true maps are known: None, then one map a scale (VAR Sec. 3.2)."""
    state = tokenizer.begin(maps[0].shape[0], schedule)
    inputs: list[Tensor | None] = []
    for part in maps:
        inputs.append(tokenizer.next_input(state))
        state = tokenizer.absorb(state, part)
    return inputs


def round_trip(tokenizer: Tokenizer, images: Tensor) -> Tensor:
    """Images ``[B,3,H,W]`` encoded, quantized over the default schedule, decoded: what a tokenizer keeps of them."""
    latent = tokenizer.encode(images)
    return tokenizer.decode(tokenize(tokenizer, latent, tokenizer.default_schedule).latent)
