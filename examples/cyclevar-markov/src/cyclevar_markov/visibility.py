"""Markovian attention: HMAR (arXiv 2506.04421) and MVAR (arXiv 2505.12742).

The map that a scale reads is made of all coarser ones, so that a scale which sees itself alone still knows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cyclevar.core.attention.plan import Visibility
from cyclevar.core.schedule import ScaleSchedule
from cyclevar_markov.config import MarkovConfig


@dataclass(frozen=True)
class MarkovVisibility(Visibility):
    """``window``: side of the square of tokens, around the same place, that a token sees of a scale; 0 for all."""

    window: int = 0

    def tokens(self, schedule: ScaleSchedule, query_scale: int, key_scale: int) -> Tensor | None:
        size = schedule.sizes[key_scale]
        if not self.window or max(size) <= self.window:
            return None
        return windows(schedule.sizes[query_scale], size, self.window)


def build(schedule: ScaleSchedule, config: MarkovConfig) -> MarkovVisibility:
    """The visibility for ``schedule``."""
    scales = range(len(schedule))
    sees = tuple(tuple(0 <= q - k <= config.coarser for k in scales) for q in scales)
    return MarkovVisibility(sees, config.window)


@lru_cache(maxsize=256)
def windows(queries: tuple[int, int], keys: tuple[int, int], window: int) -> Tensor:
    """Which tokens of a map of size ``keys`` each token of one of size ``queries`` sees: bool ``[l_q,l_k]``."""
    rows, columns = (_near(*sides, window) for sides in zip(queries, keys, strict=True))
    seen = rows[:, None, :, None] & columns[None, :, None, :]
    return seen.flatten(2).flatten(0, 1)


def _near(queries: int, keys: int, window: int) -> Tensor:
    """The same along one side: bool ``[queries,keys]``; a window at the border is moved inside."""
    centre = (torch.arange(queries) * 2 + 1) * keys // (2 * queries)
    first = (centre - window // 2).clamp(0, max(keys - window, 0))[:, None]
    place = torch.arange(keys)
    return (first <= place) & (place < first + window)
