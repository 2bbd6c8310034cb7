"""Times a model stage by stage, beside the straightforward path, in interleaved rounds."""

from __future__ import annotations

import importlib.metadata
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from cyclevar.core.bench.config import BenchConfig
from cyclevar.core.bench.worker import Worker
from cyclevar.core.config.base import Settings


class Spread(Settings):
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(median=values[0], low=values[0], high=values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median=median, low=low, high=high)


class Stage(Settings):
    """One stage of a pass, or the whole of it."""

    name: str
    seconds: Spread
    share: float
    """Of the pass."""
    flop: float
    """Floating-point operations of the straightforward path, counted."""
    flop_per_second: float
    of_ceiling: float | None
    """That rate as a share of what the machine reaches in one large matrix product or convolution."""
    plain_seconds: Spread | None = None
    speedup_over_plain: Spread | None = None
    """The straightforward path's time as a multiple of this one's, round by round."""


class BenchResult(Settings):
    """What `bench` measured. Seconds are of a pass, which makes ``config.batch`` pictures."""

    cyclevar: str
    config: BenchConfig
    machine: dict[str, str]
    rounds: int
    dtype: str
    attention: str
    image_size: tuple[int, int]
    stages: tuple[Stage, ...]
    total: Stage
    pictures_per_second: float
    speedup_over_plain: float | None
    """Median over the rounds of the plain pass's time as a multiple of this one's; None where that is what was run."""
    largest_difference: float | None
    """Between the pictures of both paths, in [-1,1]; None in training."""
    peak_bytes: int
    plain_peak_bytes: int | None
    weight_bytes: dict[str, int]
    ceilings: dict[str, float]
    """Floating-point operations a second, by what was computed."""


def bench(
    config: BenchConfig, *, rounds: int = 5, plain: bool = False, note: Callable[[str], None] = lambda text: None
) -> BenchResult:
    """Time passes of a model in ``rounds``, each of them once on the straightforward path and once on the fast one.

    Both run in processes of their own, in turn, so that what else the machine does slows both alike. ``plain``: the
    straightforward path alone. Training has no other path than its own. Raises `CyclevarError` where a model, device
    or dtype cannot be had, or memory does not suffice.
    """
    from cyclevar.core.bench.work import CONVOLVED, ORDER

    alone = plain or config.mode == "train"
    with Worker(config, plain=True) as straight:
        note("counting the work")
        flops = straight.ask("flops")
        first = straight.ask("picture")
        with Worker(config, plain=False) if not alone else straight as fast:
            note("warming up")
            for worker in {straight, fast}:
                worker.ask("ready")
            own, other, ceilings = [], [], []
            for number in range(rounds):
                note(f"round {number + 1} of {rounds}")
                if not alone:
                    other.append(straight.ask("pass"))
                own.append(fast.ask("pass"))
                ceilings.append(fast.ask("ceilings"))
            facts = fast.ask("facts")
            picture = None if alone else fast.ask("picture")
            plain_facts = None if alone else straight.ask("facts")
    reached: dict[str, float] = {name: statistics.median(one[name] for one in ceilings) for name in ceilings[0]}

    def ceiling(name: str) -> float:
        return reached["convolution" if name in CONVOLVED else "matrix product"]

    shared = own[0].keys() & (other or own)[0].keys()  # a captured pass has no stages
    stages = [_stage(name, flops, own, other, ceiling(name)) for name in sorted(shared, key=ORDER.index)]
    total = _stage("all", flops, own, other, None)
    whole = total.speedup_over_plain
    return BenchResult(
        cyclevar=importlib.metadata.version("cyclevar"),
        config=config,
        machine=facts["machine"],
        rounds=rounds,
        dtype=facts["dtype"],
        attention=facts["attention"],
        image_size=facts["image_size"],
        stages=tuple(stages),
        total=total,
        pictures_per_second=config.batch * (2 if config.mode == "train" else 1) / total.seconds.median,
        speedup_over_plain=whole.median if whole else None,
        largest_difference=None if picture is None else float(np.abs(picture - first).max()),
        peak_bytes=facts["peak_bytes"],
        plain_peak_bytes=plain_facts["peak_bytes"] if plain_facts else None,
        weight_bytes=facts["weight_bytes"],
        ceilings=reached,
    )


def _stage(
    name: str,
    flops: dict[str, float],
    own: Sequence[dict[str, float]],
    other: Sequence[dict[str, float]],
    ceiling: float | None,
) -> Stage:
    """``all`` is the whole pass."""

    def times(passes: Sequence[dict[str, float]]) -> list[float]:
        return [sum(one.values()) if name == "all" else one[name] for one in passes]

    seconds, whole = Spread.of(times(own)), statistics.median(sum(one.values()) for one in own)
    work = sum(flops.values()) if name == "all" else flops.get(name, 0.0)
    ratios = [two / one for one, two in zip(times(own), times(other), strict=True)] if other else []
    return Stage(
        name=name,
        seconds=seconds,
        share=seconds.median / whole,
        flop=work,
        flop_per_second=work / seconds.median,
        of_ceiling=work / seconds.median / ceiling if ceiling else None,
        plain_seconds=Spread.of(times(other)) if other else None,
        speedup_over_plain=Spread.of(ratios) if other else None,
    )
