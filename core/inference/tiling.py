"""Maps that are too large at once, computed in overlapping tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces.tokenizer import Tokenizer


def tiled(function: Callable[[Tensor], Tensor], maps: Tensor, *, tile: int, overlap: int) -> Tensor:
    """``function`` of ``maps [B,C,H,W]``, a picture of tiles whose sides are at most ``tile``, put together again.

    ``function`` changes height and width by one whole factor, up or down, which divides all sizes. Neighbours share
    ``overlap`` rows or columns: a quarter of them at a border is left out, over the half between, one tile fades into
    the other. So this equals ``function(maps)`` where an output depends on inputs no farther than ``overlap / 4``
    away; a network with group norms or attention sees less than the whole in a tile, and its result differs a little.

    Raises `ConfigError` for an overlap that leaves nothing of a tile.
    """
    if not 0 <= overlap < tile:
        raise ConfigError(f"tiles of {tile} cannot overlap by {overlap}", expected=f"0 to {tile - 1}")
    rows, columns = (_begins(side, tile, overlap) for side in maps.shape[2:])
    if len(rows) == len(columns) == 1:
        return function(maps)
    total = weights = maps.new_zeros(())
    for top in rows:
        for left in columns:
            part = maps[:, :, top : top + tile, left : left + tile]
            made = function(part)
            factor = made.shape[-1] / part.shape[-1]
            if not total.ndim:
                size = [round(side * factor) for side in maps.shape[2:]]
                total, weights = made.new_zeros(*made.shape[:2], *size), made.new_zeros(size)
            at, fade = (round(top * factor), round(left * factor)), round(overlap * factor)
            down, across = (
                _weights(count, fade, begin > 0, begin + count < side, made)
                for count, begin, side in zip(made.shape[2:], at, total.shape[2:], strict=True)
            )
            window = slice(at[0], at[0] + made.shape[2]), slice(at[1], at[1] + made.shape[3])
            weight = down[:, None] * across
            total[:, :, *window] += weight * made
            weights[window] += weight
    return total / weights


def in_tiles(tokenizer: Tokenizer, pixels: int, overlap: int) -> None:
    """Let the tokenizer encode and decode whatever is larger than ``pixels`` a side in tiles (`tiled`).

    Both are rounded down to the tokenizer's cells.
    """
    for name, unit in (("encode", 1), ("decode", tokenizer.stride)):
        whole = getattr(tokenizer, name)
        sizes = {
            key: count // tokenizer.stride * tokenizer.stride // unit
            for key, count in (("tile", pixels), ("overlap", overlap))
        }

        def run(
            maps: Tensor, whole: Callable[..., Tensor] = whole, sizes: dict[str, int] = sizes, **more: bool
        ) -> Tensor:
            return tiled(partial(whole, **more), maps, **sizes)

        setattr(tokenizer, name, run)


def _begins(side: int, tile: int, overlap: int) -> Sequence[int]:
    """Where tiles begin that cover ``side``; the last is moved back to end there."""
    if side <= tile:
        return [0]
    return [*range(0, side - tile, tile - overlap), side - tile]


def _weights(count: int, overlap: int, before: bool, after: bool, like: Tensor) -> Tensor:
    """How much the rows of a tile count: nothing, rising, then one; falling likewise where another tile follows."""
    margin = overlap // 4
    fade = max(overlap - 2 * margin, 1)
    position = torch.arange(count, dtype=like.dtype, device=like.device) + 0.5
    weights = torch.ones_like(position)
    if before:
        weights = weights * ((position - margin) / fade).clamp(0, 1)
    if after:
        weights = weights * ((count - position - margin) / fade).clamp(0, 1)
    return weights
