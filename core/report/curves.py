"""Curves as plain SVG paths: thinned, smoothed where they are dense, on axes with round numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cyclevar.core.report.run_record import Curve

POINTS = 240
"""Most points that a line is drawn with."""

DENSE = 60
"""From so many points on a curve is smoothed, and the range leaves out its farthest spikes."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 170, 46, 10, 8, 20
"""Of a chart and its margins, in SVG units."""


@dataclass(frozen=True)
class Line:
    """One curve: its ``path``, ``faint`` behind it the unsmoothed one or nothing, and which run it is of."""

    run: int
    path: str
    faint: str


@dataclass(frozen=True)
class Tick:
    """A number on an axis and where it stands, in SVG units."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """One metric of one or more runs. ``captions``: a few words on each line, in the same order."""

    name: str
    lines: Sequence[Line]
    across: Sequence[Tick]
    up: Sequence[Tick]
    captions: Sequence[tuple[int, str]]


def draw(name: str, curves: Sequence[tuple[int, Curve]]) -> Chart:
    """A chart of curves with at least one point each, given with the number of their run."""
    drawn = [(run, smoothed(curve), curve if len(curve) >= DENSE else []) for run, curve in curves]
    low, high = _range([curve for _, curve in curves])
    last = max(curve[-1][0] for _, curve in curves)

    def path(curve: Curve) -> str:
        x = LEFT + np.array([step for step, _ in curve]) / max(last, 1) * (WIDTH - LEFT - RIGHT)
        share = (np.array([value for _, value in curve]) - low) / (high - low)
        y = HEIGHT - BOTTOM - share.clip(-0.5, 1.5) * (HEIGHT - TOP - BOTTOM)
        points = [f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True)]
        return "M" + "L".join(points if len(points) > 1 else 2 * points)  # a line to itself is drawn as a dot

    return Chart(
        name,
        [Line(run, path(thinned(main)), path(thinned(raw)) if raw else "") for run, main, raw in drawn],
        [Tick(LEFT + tick / max(last, 1) * (WIDTH - LEFT - RIGHT), f"{tick:g}") for tick in _ticks(0, last, 4)],
        [
            Tick(HEIGHT - BOTTOM - (tick - low) / (high - low) * (HEIGHT - TOP - BOTTOM), f"{tick:.4g}")
            for tick in _ticks(low, high, 6)
        ],
        [(run, _caption(curve)) for run, curve in curves],
    )


def thinned(curve: Curve, limit: int = POINTS) -> Curve:
    """At most ``limit`` (even) points: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(curve) <= limit:
        return list(curve)
    kept: Curve = []
    edges = np.linspace(0, len(curve), limit // 2 + 1).round().astype(int)
    for begin, end in itertools.pairwise(edges):
        stretch = range(begin, end)
        chosen = {min(stretch, key=lambda i: curve[i][1]), max(stretch, key=lambda i: curve[i][1])}
        kept += [curve[i] for i in sorted(chosen)]
    return kept


def smoothed(curve: Curve) -> Curve:
    """The mean over a twentieth of the curve around each point; a curve that is not dense stays as it is."""
    if len(curve) < DENSE:
        return list(curve)
    half = max(1, len(curve) // 40)
    sums = np.concatenate([[0.0], np.cumsum([value for _, value in curve])])
    begin = np.maximum(np.arange(len(curve)) - half, 0)
    end = np.minimum(np.arange(len(curve)) + half + 1, len(curve))
    means = (sums[end] - sums[begin]) / (end - begin)
    return [(step, float(mean)) for (step, _), mean in zip(curve, means, strict=True)]


def _range(curves: Sequence[Curve]) -> tuple[float, float]:
    """What the vertical axis covers: everything, or of dense curves all but the farthest hundredth at either end."""
    ends: list[float] = []
    for curve in curves:
        values = np.array([value for _, value in curve])
        dense = len(curve) >= DENSE
        ends += np.quantile(values, [0.01, 0.99] if dense else [0, 1]).tolist()
    low, high = min(ends), max(ends)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between ``low`` and ``high``, about ``most`` of them."""
    if high <= low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _caption(curve: Curve) -> str:
    (step, last), (low_step, low), (high_step, high) = (
        curve[-1],
        min(curve, key=lambda point: point[1]),
        max(curve, key=lambda point: point[1]),
    )
    if len(curve) == 1:
        return f"{last:.4g} at {step}"
    return f"last {last:.4g} at {step}, lowest {low:.4g} at {low_step}, highest {high:.4g} at {high_step}"
