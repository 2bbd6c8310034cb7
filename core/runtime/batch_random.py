"""Random numbers for the rows of a batch that several processes share.

Each process draws for the whole batch and keeps its own rows. So the random states of all processes stay equal, and
what a row gets does not depend on how many processes there are. Parts that draw a number a row go through `draw`; a
process alone draws as if this module did not exist.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Locate = Callable[[int], tuple[int, Sequence[slice]]]
"""From the number of rows at hand to that of the whole batch, and where the rows at hand lie in it."""

_locate: Locate | None = None
# One for all threads, not one a thread: the backward pass draws again, in threads of its own, where blocks are
# recomputed. Parts of plugins draw without being told of the batch, so it cannot be passed.


@contextlib.contextmanager
def shared(locate: Locate | None) -> Iterator[None]:
    """Within, `draw` serves a batch of which the rows at hand are what ``locate`` says."""
    global _locate
    before, _locate = _locate, locate
    try:
        yield
    finally:
        _locate = before


def draw(count: int, make: Callable[[int], Tensor]) -> Tensor:
    """Random numbers for ``count`` rows: ``make(n)`` makes those of n rows, the first dimension."""
    if _locate is None:
        return make(count)
    total, places = _locate(count)
    made = make(total)
    return torch.cat([made[place] for place in places])


def blocks(number: int, processes: int, size: int) -> Locate:
    """For process ``number`` of ``processes``, each of which holds ``size`` rows of every block of a batch."""

    def locate(count: int) -> tuple[int, Sequence[slice]]:
        assert count % size == 0, f"{count} rows are no blocks of {size}"
        begins = [block * processes * size + number * size for block in range(count // size)]
        return count * processes, [slice(begin, begin + size) for begin in begins]

    return locate
