"""Two-dimensional rotary positions over all scales (Infinity Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.attention.xformers import constant_when_compiled
from cyclevar.core.config.families import Size
from cyclevar.core.networks.transformer import Rotary
from cyclevar.plugins.infinity.schedules import reference_size

Kind = Literal["reference", "stretched", "index"]

EDGE = 128
"""Rows and columns of the table that ``stretched`` positions are read from."""


@constant_when_compiled
def rotary_on(device: torch.device, sizes: tuple[Size, ...], full: Size, head_dim: int, kind: Kind) -> Rotary:
    """`rotary_table` on a device, made and moved there once, so that no pass waits for it."""
    return _rotary_on(device, sizes, full, head_dim, kind)


@lru_cache(maxsize=64)
def _rotary_on(device: torch.device, sizes: tuple[Size, ...], full: Size, head_dim: int, kind: Kind) -> Rotary:
    with torch.inference_mode(False):
        cosine, sine = rotary_table(sizes, full, head_dim, kind)
        return cosine.to(device), sine.to(device)


def rotary_table(sizes: Sequence[Size], full: Size, head_dim: int, kind: Kind) -> Rotary:
    """Cosines and sines ``[l,head_dim/2]`` for the tokens of maps of ``sizes``; ``full`` is the finest of the schedule.

    The first half of the pairs turns with the row, the second with the column. ``reference`` counts rows and columns on
    the finest map of the largest budget, so that a cell has the same position in maps of all sizes and budgets.
    """
    frequencies = 10000.0 ** (-torch.arange(0, head_dim // 2, 2) / (head_dim // 2))
    grids = [_grid(size, full, frequencies, kind) for size in sizes]
    cosine, sine = torch.cat([grid.flatten(1, 2) for grid in grids], dim=1)
    return cosine, sine


def _grid(size: Size, full: Size, frequencies: Tensor, kind: str) -> Tensor:
    """Cosines and sines of a map, ``[2,h,w,head_dim/2]``."""
    if kind == "stretched":
        reference = reference_size(full)
        cropped = [int(EDGE / max(reference) * side) for side in reference]
        whole = _angles(torch.arange(cropped[0]), torch.arange(cropped[1]), frequencies)
        table = torch.stack([whole.cos(), whole.sin()]).movedim(-1, 1)
        return F.interpolate(table, size=size, mode="bilinear", align_corners=True).movedim(1, -1)
    rows, columns = (torch.arange(side) for side in size)
    if kind == "reference":
        rows, columns = (
            (index * (most / side)).round()
            for index, most, side in zip((rows, columns), reference_size(full), size, strict=True)
        )
    angles = _angles(rows, columns, frequencies)
    return torch.stack([angles.cos(), angles.sin()])


def _angles(rows: Tensor, columns: Tensor, frequencies: Tensor) -> Tensor:
    down, across = (index[:, None].float() * frequencies for index in (rows, columns))
    height, width = len(rows), len(columns)
    return torch.cat([down[:, None].expand(-1, width, -1), across[None].expand(height, -1, -1)], dim=-1)
