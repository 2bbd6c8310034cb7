"""Batches by step, prefetched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random

import torch
from torch import Tensor

from cyclevar.core.data.batches import UnpairedBatches


def step_random(seed: int, step: int) -> Random:
    """The random choices of one update besides its batch: the same in a resumed run, whatever was drawn before."""
    return Random(f"{seed}/{step}")


def micro_batches(a: Tensor, b: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
    """A batch of each domain in ``count`` parts of equal size."""
    return list(zip(a.chunk(count), b.chunk(count), strict=True))


class Stream:
    """Batches by step on ``device``, prefetched while the steps come in order."""

    def __init__(self, batches: UnpairedBatches, device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._next: int | None = None
        self._iterator: Iterator[tuple[Tensor, Tensor]] = iter(())
        self.seconds = 0.0

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of update ``step``."""
        begun = time.perf_counter()
        if step != self._next:
            self._iterator = self._batches.iterate(step)
        self._next = step + 1
        a, b = next(self._iterator)
        pair = a.to(self._device), b.to(self._device)
        self.seconds += time.perf_counter() - begun
        return pair

    def pictures(self, step: int) -> dict[str, Tensor]:
        """The batch of update ``step`` once more, by domain; the order of the others is not disturbed."""
        return dict(zip("ab", self._batches.batch(step), strict=True))

    def waited(self) -> float:
        """Seconds spent in `batch` since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds
