"""A clock that tells which stage of a pass takes how long and how much it computes."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cyclevar.core.models.model import Model

OUTSIDE = "outside"


@dataclass(frozen=True)
class _Mark:
    stage: str
    """The one that begins here."""
    at: Any
    """Seconds, or an event on a GPU."""
    flops: int


class Stages(Protocol):
    """Who is told which stage runs."""

    def stage(self, name: str) -> contextlib.AbstractContextManager[None]:
        """What runs inside is of this stage."""


class StageClock:
    """Notes when stages begin and end; the time of an inner stage does not count for the outer one.

    On a GPU the times are those of events in its stream, so that nothing waits for it inside a pass. With ``counter``
    each stage's floating-point operations are told apart too (a multiplication and an addition are two). On a CPU
    ``now`` tells the seconds.
    """

    def __init__(
        self,
        device: torch.device,
        counter: FlopCounterMode | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._device, self._counter, self._now = device, counter, now
        self._marks: list[_Mark] = []
        self._stage = OUTSIDE

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What runs inside is of this stage."""
        outer = self._stage
        self._mark(name)
        try:
            yield
        finally:
            self._mark(outer)

    def _mark(self, stage: str) -> None:
        if self._device.type == "cuda":
            at: Any = torch.cuda.Event(enable_timing=True)
            at.record()
        else:
            at = self._now()
        self._stage = stage
        self._marks.append(_Mark(stage, at, self._counter.get_total_flops() if self._counter else 0))

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, in the order in which they first began."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._sums(
            lambda one, two: (
                one.at.elapsed_time(two.at) / 1e3 if self._device.type == "cuda" else float(two.at - one.at)
            )
        )

    def flops(self) -> dict[str, float]:
        """Floating-point operations by stage."""
        return self._sums(lambda one, two: two.flops - one.flops)

    def _sums(self, difference: Callable[[_Mark, _Mark], float]) -> dict[str, float]:
        sums: dict[str, float] = {}
        for one, two in zip(self._marks, self._marks[1:], strict=False):
            if one.stage != OUTSIDE:
                sums[one.stage] = sums.get(one.stage, 0.0) + difference(one, two)
        return sums


@contextlib.contextmanager
def watched(model: Model, clock: Stages) -> Iterator[None]:
    """Let the clock see the calls of a model's encoder, backbone and decoder."""
    parts: list[tuple[nn.Module, str, str]] = [(model.tokenizer, name, name) for name in ("encode", "decode")]
    parts += [(model.backbone, name, "backbone") for name in ("forward", "guided")]
    with contextlib.ExitStack() as undo:
        for owner, name, stage in parts:
            undo.enter_context(_wrapped(owner, name, clock, stage))
        yield


@contextlib.contextmanager
def _wrapped(owner: nn.Module, name: str, clock: Stages, stage: str) -> Iterator[None]:
    function, own = getattr(owner, name), vars(owner).get(name)

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        with clock.stage(stage):
            return function(*args, **kwargs)

    setattr(owner, name, timed)
    try:
        yield
    finally:
        delattr(owner, name)
        if own is not None:
            setattr(owner, name, own)
