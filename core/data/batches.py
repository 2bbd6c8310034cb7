"""Batches of pictures that depend on nothing but the seed and the step."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cyclevar.core.data.sources import PictureList
from cyclevar.core.data.transforms import Pixels, from_array, random_crop, to_array, to_tensor
from cyclevar.core.errors import ConfigError, DataError, PictureError

CACHE_BYTES = 2**30

# The first entropy word of every random stream, so that no two streams are the same.
_ORDER, _AUGMENTATION = 0, 1


@functools.lru_cache(maxsize=8)
def epoch_order(seed: int, domain: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of ``count`` pictures in an epoch: a permutation, int64 [count]."""
    return np.random.default_rng((_ORDER, seed, domain, epoch)).permutation(count)


class UnpairedBatches:
    """Batches of both domains, addressed by the training step.

    Each domain is gone through in epochs of its own, in an order drawn anew for each epoch. ``batch(step)`` is a pure
    function of the seed, the step and the files: a run resumed at any step sees what an uninterrupted one saw, bit for
    bit. A picture that cannot be read is replaced by the next one of the epoch's order.

    Several processes that train together each take their ``share`` of every batch: the same rows of it that a process
    alone would have made, wherever it is cut.

    Args:
        dataset_part: the pictures of domain A and of domain B.
        batch_size: pictures of each domain in a batch.
        size: height and width of what comes out.
        load_size: what the pictures are scaled to before a random ``size`` x ``size`` piece is taken; ``size`` if not
            given, so that nothing is cut off but the longer sides.
        flip: mirror half of the pictures. Leave it off where left and right mean something, as in letters.
        seed: not negative.
        cache: keep the scaled pictures in memory, if all of them fit in 1 GiB.
        workers: threads of :meth:`iterate`.
        most_bad: the largest share of a domain's pictures that may be unreadable (`refuse_bad`).
        share: which of how many equal pieces of every batch is made.
    """

    def __init__(
        self,
        dataset_part: tuple[PictureList, PictureList],
        batch_size: int,
        size: int,
        *,
        load_size: int | None = None,
        flip: bool = False,
        seed: int = 0,
        cache: bool = True,
        workers: int = 2,
        most_bad: float = 1.0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.pictures = dataset_part
        self.batch_size, self.size, self.load_size = batch_size, size, load_size or size
        self.flip, self.seed, self.workers = flip, seed, workers
        if self.load_size < size:
            raise ConfigError(f"load_size is {load_size}, less than the size {size}", expected="at least the size")
        number, shares = share
        if batch_size % shares:
            raise ConfigError(
                f"a batch of {batch_size} pictures of each domain is to be shared by {shares} processes",
                expected=f"a multiple of {shares}",
                hint="change the batch size or the number of processes",
            )
        self.most_bad, self.positions = (
            most_bad,
            range(number * batch_size // shares, (number + 1) * batch_size // shares),
        )
        self._met = [np.zeros(len(pictures), bool) for pictures in dataset_part]
        needed = sum(len(pictures) for pictures in dataset_part) * self.load_size**2 * 3
        self._cache: dict[tuple[int, int], Pixels] | None = {} if cache and needed <= CACHE_BYTES else None

    @property
    def bad(self) -> dict[str, str]:
        """ "A/name" or "B/name" -> reason, of the pictures met so far that cannot be read."""
        return {
            f"{domain}/{name}": reason
            for domain, pictures in zip("AB", self.pictures, strict=True)
            for name, reason in pictures.bad.items()
        }

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The batches of domain A and B at a step (from 0), each float32 [B, 3, size, size] in [-1, 1].

        Of a shared batch only this share's rows, B divided by the number of shares.

        Raises:
            DataError: no picture of a domain can be read, or too many cannot.
        """
        return self._half(0, step), self._half(1, step)

    def iterate(self, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """``batch(start_step)``, ``batch(start_step + 1)``, ... without end, prepared ahead by background threads."""
        ahead = 2 * self.workers
        with ThreadPoolExecutor(self.workers, thread_name_prefix="batches") as pool:
            pending = deque(pool.submit(self.batch, start_step + offset) for offset in range(ahead))
            try:
                for step in itertools.count(start_step + ahead):
                    ready = pending.popleft().result()
                    pending.append(pool.submit(self.batch, step))
                    yield ready
            finally:
                for future in pending:
                    future.cancel()

    def _half(self, domain: int, step: int) -> Tensor:
        return from_array(np.stack([self._item(domain, step, position) for position in self.positions]))

    def _item(self, domain: int, step: int, position: int) -> Pixels:
        count = len(self.pictures[domain])
        epoch, place = divmod(step * self.batch_size + position, count)
        order = epoch_order(self.seed, domain, epoch, count)
        rng = np.random.default_rng((_AUGMENTATION, self.seed, domain, step, position))
        for index in itertools.chain(order[place:], order[:place]):
            self._met[domain][index] = True
            try:
                pixels = self._scaled(domain, int(index))
            except PictureError:
                refuse_bad(self.pictures[domain], int(self._met[domain].sum()), self.most_bad)
                continue
            return random_crop(pixels, self.size, self.flip, rng)
        raise _all_bad(self.pictures[domain])

    def _scaled(self, domain: int, index: int) -> Pixels:
        if self._cache is None:
            return to_array(self.pictures[domain][index], self.load_size)
        if (domain, index) not in self._cache:
            self._cache[domain, index] = to_array(self.pictures[domain][index], self.load_size)
        return self._cache[domain, index]


def stack(pictures: PictureList, size: int, limit: int | None = None) -> Tensor:
    """The first ``limit`` pictures (default: all) that can be read: float32 [N, 3, size, size] in [-1, 1].

    Those that cannot are left out and stand in ``pictures.bad``.

    Raises:
        DataError: none can be read.
    """
    return torch.stack([to_tensor(picture, size) for _, picture in readable(pictures, limit)])


def readable(pictures: PictureList, limit: int | None = None) -> Iterator[tuple[str, Image.Image]]:
    """Name and picture of the first ``limit`` (default: all) that can be read; the others stand in ``pictures.bad``.

    Raises:
        DataError: none can be read.
    """
    found = 0
    for index, name in enumerate(pictures.names):
        if found == limit:
            return
        try:
            picture = pictures[index]
        except PictureError:
            continue
        found += 1
        yield name, picture
    if not found:
        raise _all_bad(pictures)


LEAST_MET = 100
"""Pictures that must have been tried before their bad ones are a share of anything; all, where there are fewer."""


def refuse_bad(pictures: PictureList, met: int, most_bad: float) -> None:
    """Raise `DataError`, with the list, where more than ``most_bad`` of the ``met`` pictures cannot be read.

    While fewer than `LEAST_MET` were met, that many of them may be bad as of `LEAST_MET`.
    """
    bad = pictures.bad
    if len(bad) <= most_bad * max(met, min(len(pictures), LEAST_MET)):
        return
    shown = "; ".join(f"{name}: {reason.rpartition(': ')[2]}" for name, reason in itertools.islice(bad.items(), 20))
    more = f"; and {len(bad) - 20} more" if len(bad) > 20 else ""
    raise DataError(
        f"{len(bad)} of the {met} pictures that were opened cannot be read ({shown}{more})",
        expected=f"at most {most_bad:.0%} bad ones (data.most_bad)",
        hint="`cyclevar data check` lists all of them: replace or remove them, or allow more by --set data.most_bad",
    )


def _all_bad(pictures: PictureList) -> DataError:
    name, reason = next(iter(pictures.bad.items()))
    return DataError(
        f"none of {len(pictures)} pictures can be read; the first, {name}: {reason}",
        expected="pictures that open in a viewer",
        hint="give another folder, or replace the damaged files",
    )
