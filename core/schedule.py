"""The scale schedule: which token maps a next-scale model predicts, coarse to fine (VAR, Sec. 3.1)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cyclevar.core.errors import ConfigError, brief

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ScaleSchedule:
    """Heights and widths ``(h_k, w_k)`` of the K token maps, coarse to fine, in latent cells."""

    sizes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple((int(h), int(w)) for h, w in self.sizes))
        if not self.sizes or any(h < 1 or w < 1 for h, w in self.sizes):
            raise ConfigError(f"the schedule {self.sizes} is not usable", expected="one or more positive sizes")
        for (h, w), (next_h, next_w) in itertools.pairwise(self.sizes):
            if next_h < h or next_w < w:
                raise ConfigError(
                    f"the schedule {self} shrinks from {h}x{w} to {next_h}x{next_w}",
                    expected="sizes that grow from coarse to fine",
                )

    @classmethod
    def square(cls, *sides: int) -> ScaleSchedule:
        """Square maps of the given side lengths."""
        return cls(tuple((side, side) for side in sides))

    @classmethod
    def parse(cls, text: str) -> ScaleSchedule:
        """Read ``"1-2-3-4-6"`` (square) or ``"1x1-2x3-4x6"`` (height x width)."""
        sizes = []
        for part in re.split(r"[-,_ ]+", text.strip()):
            found = re.fullmatch(r"([0-9]{1,9})(?:x([0-9]{1,9}))?", part)
            if not found:
                raise ConfigError(
                    f"{brief(text)!r} is not a schedule",
                    expected='sizes from coarse to fine such as "1-2-3-4-6" or "1x1-2x3"',
                )
            sizes.append((int(found[1]), int(found[2] or found[1])))
        return cls(tuple(sizes))

    def __str__(self) -> str:
        return "-".join(str(h) if h == w else f"{h}x{w}" for h, w in self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def full(self) -> tuple[int, int]:
        """Size of the finest map, which is the size of the latent."""
        return self.sizes[-1]

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens per scale, ``h_k * w_k``."""
        return tuple(h * w for h, w in self.sizes)

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """``(begin, end)`` of each scale in the packed token sequence."""
        ends = tuple(itertools.accumulate(self.lengths))
        return tuple(zip((0, *ends[:-1]), ends, strict=True))

    @property
    def total(self) -> int:
        """Length L of the packed sequence."""
        return sum(self.lengths)

    def pack(self, maps: Sequence[Tensor], *, first: int = 0) -> Tensor:
        """Maps ``[B,C,h_k,w_k]`` of the scales from ``first`` on, row-major, to tokens ``[B,l,C]``."""
        import torch

        for size, part in zip(self.sizes[first:], maps, strict=False):
            if tuple(part.shape[-2:]) != size:
                raise ConfigError(
                    f"a map of size {tuple(part.shape[-2:])} was given", expected=f"size {size} of {self}"
                )
        return torch.cat([part.flatten(2).transpose(1, 2) for part in maps], dim=1)

    def unpack(self, tokens: Tensor, *, first: int = 0) -> list[Tensor]:
        """Tokens ``[B,l,C]`` of whole scales from ``first`` on back to maps ``[B,C,h_k,w_k]``."""
        maps, begin = [], 0
        for h, w in self.sizes[first:]:
            if begin + h * w > tokens.shape[1]:
                break
            maps.append(tokens[:, begin : begin + h * w].transpose(1, 2).unflatten(2, (h, w)))
            begin += h * w
        if begin != tokens.shape[1]:
            raise ConfigError(f"{tokens.shape[1]} tokens are not whole scales of {self}", expected=f"such as {begin}")
        return maps
