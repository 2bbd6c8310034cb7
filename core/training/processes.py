"""The processes that train together.

What is trained, the averages, the pools and the random states are the same in all of them; only the pictures of a batch
are shared out. Gradients are averaged before they are used. So a training does not depend on how many processes there
are, to rounding, and a state that one process wrote is read by any number of them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather, gather_object
from torch import Tensor, nn

from cyclevar.core.errors import ConfigError, CyclevarError
from cyclevar.core.runtime import batch_random as rows

if TYPE_CHECKING:
    from cyclevar.core.training.state import Parts

Answer = TypeVar("Answer")

BUCKET = 2**24
"""Numbers that are averaged in one message."""


class LostProcessError(CyclevarError):
    """A process of a team that ended before the others. What was saved is untouched."""

    exit_code = 1


class Team:
    """The processes of one training; one alone is a team too. ``number`` counts them from 0, and 0 leads: it writes."""

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        self.number = accelerator.process_index if accelerator else 0
        self.size = accelerator.num_processes if accelerator else 1
        self.device = accelerator.device if accelerator else torch.device("cpu")

    @property
    def leads(self) -> bool:
        return self.number == 0

    @property
    def alone(self) -> bool:
        return self.size == 1

    def demand_shares(self, batch_size: int) -> None:
        """Raise `ConfigError` unless a batch can be shared out equally."""
        if batch_size % self.size:
            raise ConfigError(
                f"a batch of {batch_size} pictures of each domain cannot be shared out to {self.size} processes",
                expected=f"a multiple of {self.size}",
                hint="set another batch size, or start another number of processes",
            )

    # What a batch is shared by

    def blocks(self, size: int) -> rows.Locate | None:
        """Random numbers for rows of which every process holds ``size`` of each block (`rows.shared`)."""
        return None if self.alone else rows.blocks(self.number, self.size, size)

    def part(self, count: int) -> slice:
        """This process's part of ``count`` rows that all of them hold, as equal as can be."""
        return slice(self.number * count // self.size, (self.number + 1) * count // self.size)

    def parts(self, counts: Sequence[int]) -> rows.Locate | None:
        """Random numbers for this process's `part` of each of several blocks of rows that all processes hold."""
        if self.alone:
            return None
        begins = [sum(counts[:index]) for index in range(len(counts))]
        mine = [self.part(count) for count in counts]
        places = [slice(at + one.start, at + one.stop) for at, one in zip(begins, mine, strict=True)]
        return lambda count: (sum(counts), places)

    def weight(self, count: int) -> float:
        """What the mean over this process's `part` counts, so that the mean of all processes is that over all rows."""
        part = self.part(count)
        return float((part.stop - part.start) * self.size / count)

    # What goes from process to process

    def gather(self, held: Tensor) -> Tensor:
        """The rows of all processes, in their order; every process holds equally many."""
        return held if self.alone else gather(held.contiguous())

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over the processes, the same in all of them; without a gradient."""
        return value if self.alone else gather(value.detach().reshape(1)).mean()

    @torch.no_grad()
    def average(self, gradients: Iterable[Tensor]) -> None:
        """Replace gradients by their means over the processes; those that are sharded are that already."""
        whole = [] if self.alone else [one for one in gradients if not hasattr(one, "full_tensor")]
        while whole:
            count = 1
            while count < len(whole) and sum(one.numel() for one in whole[: count + 1]) <= BUCKET:
                count += 1
            bucket, whole = whole[:count], whole[count:]
            joined = torch.cat([one.flatten() for one in bucket])
            dist.all_reduce(joined)
            joined /= self.size
            torch._foreach_copy_([one.view(-1) for one in bucket], list(joined.split([one.numel() for one in bucket])))

    def agree(self, figures: Mapping[str, float], caught: int = 0) -> tuple[dict[str, float], int]:
        """The means of the figures over the processes, and the signal that any of them caught (0: none)."""
        if self.alone:
            return dict(figures), caught
        told = torch.tensor([[float(caught), *figures.values()]], dtype=torch.float64, device=self.device)
        told = gather(told).cpu()
        return dict(zip(figures, told[:, 1:].mean(0).tolist(), strict=True)), int(told[:, 0].max())

    def root_mean_square(self, value: float) -> float:
        """Of a norm over this process's rows of a batch: the norm over all of them, where each counts for its share."""
        return (
            value if self.alone else math.sqrt(float(self.mean(torch.tensor(value**2, device=self.device))) / self.size)
        )

    def answer(self, own: Answer) -> Answer:
        """What the leading process says."""
        if self.alone:
            return own
        said = [own]
        broadcast_object_list(said)
        return said[0]

    def collect(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """What any process knows."""
        known: dict[str, Any] = {}
        for one in [own] if self.alone else gather_object([dict(own)]):
            known |= one
        return known

    def demand_same(self, facts: Mapping[str, Any]) -> None:
        """Raise `ConfigError` in every process, naming the first difference, if facts differ from the leading one's."""
        leading, *others = [dict(facts)] if self.alone else gather_object([dict(facts)])
        for number, other in enumerate(others, start=1):
            for name in sorted(leading.keys() | other.keys()):
                if leading.get(name) != other.get(name):
                    raise ConfigError(
                        f"{name}: {leading.get(name)!r} in process 0, {other.get(name)!r} in process {number}",
                        expected="the same settings, images and run folder in every process",
                        hint="start all processes with the same command, and keep files where all machines see them",
                    )

    def in_turn(self, act: Callable[[], Answer]) -> Answer:
        """``act``, by the leading process first."""
        if self.alone:
            return act()
        if not self.leads:
            dist.barrier()
        result = act()
        if self.leads:
            dist.barrier()
        return result

    @torch.no_grad()
    def align(self, parts: Parts) -> None:
        """Give every process the leading one's modules, whatever it began with."""
        for part in [] if self.alone else parts.values():
            for tensor in part.state_dict().values() if isinstance(part, nn.Module) else ():
                if not hasattr(tensor, "full_tensor"):
                    here = tensor.to(self.device)
                    dist.broadcast(here, 0)
                    tensor.copy_(here)

    @contextlib.contextmanager
    def watching(self, folder: Path) -> Iterator[None]:
        """Say what happened, and what to do, where another process is gone."""
        try:
            yield
        except RuntimeError as error:
            if self.alone or not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
                raise
            raise LostProcessError(
                f"another process of this training is gone ({str(error).splitlines()[0][:200]})",
                expected=f"all {self.size} to the end",
                hint=f"what {folder} holds is untouched: start all of them again with --resume auto",
            ) from error


ALONE = Team()
