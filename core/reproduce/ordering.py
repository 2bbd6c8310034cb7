"""Rows put side by side: means over seeds, and whether the published order is seen. Torch-free, plain numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Mark = Literal["agrees", "disagrees", "within the interval", "not measured"]


@dataclass(frozen=True)
class Measured:
    """One figure of one training, with the 95 % interval that the choice of pictures leaves open."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """One figure of one row over its seeds.

    ``low`` to ``high`` covers the intervals of all seeds, so that it is wide where the seeds differ; ``spread`` is the
    standard deviation of the seeds, None for a single one.
    """

    mean: float
    low: float
    high: float
    spread: float | None
    seeds: int


def summarise(found: Sequence[Measured]) -> Summary | None:
    """The summary of what the seeds of one row measured; None for nothing."""
    if not found:
        return None
    values = [one.value for one in found]
    return Summary(
        mean=statistics.fmean(values),
        low=min(one.low for one in found),
        high=max(one.high for one in found),
        spread=statistics.stdev(values) if len(values) > 1 else None,
        seeds=len(values),
    )


def judge(better: Summary | None, worse: Summary | None) -> Mark:
    """Whether the row that should have the lower figure has it.

    A difference counts where the intervals do not touch: a rule that rather says nothing than something wrong.
    """
    if better is None or worse is None:
        return "not measured"
    if better.high < worse.low:
        return "agrees"
    if better.low > worse.high:
        return "disagrees"
    return "within the interval"
