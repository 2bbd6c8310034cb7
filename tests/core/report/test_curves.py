"""Curves: thinning keeps spikes and stays bounded, smoothing keeps means, a path lies where its numbers say."""

from __future__ import annotations

import pytest

from cyclevar.core.report.curves import BOTTOM, DENSE, HEIGHT, LEFT, POINTS, RIGHT, TOP, WIDTH, draw, smoothed, thinned


def points(path: str) -> list[tuple[float, float]]:
    pairs = (point.split() for point in path.removeprefix("M").split("L"))
    return [(float(x), float(y)) for x, y in pairs]


def test_thinning_is_bounded_and_keeps_every_spike() -> None:
    curve = [(step, float(step in (1234, 7777)) - float(step == 5000)) for step in range(10_000)]
    thin = thinned(curve)
    assert len(thin) <= POINTS
    assert thin == sorted(thin)
    assert {(1234, 1.0), (7777, 1.0), (5000, -1.0)} <= set(thin)
    assert thinned(curve[:POINTS]) == curve[:POINTS]


def test_smoothing_keeps_a_line_and_calms_noise() -> None:
    line = [(step, 2.0 * step) for step in range(100)]
    assert all(value == pytest.approx(2 * step) for step, value in smoothed(line)[10:90])
    noise = [(step, 1.0 if step % 2 else -1.0) for step in range(400)]
    assert max(abs(value) for _, value in smoothed(noise)) < 0.11
    assert smoothed(line[: DENSE - 1]) == line[: DENSE - 1]


def test_a_path_lies_where_its_numbers_say() -> None:
    chart = draw("loss", [(3, [(0, 1.0), (50, 3.0), (100, 2.0)])])
    [line] = chart.lines
    (x0, y0), (x1, y1), (x2, y2) = points(line.path)
    assert (line.run, line.faint) == (3, "")
    assert (x0, x2) == (LEFT, WIDTH - RIGHT)
    assert x1 == pytest.approx((x0 + x2) / 2)
    assert TOP < y1 < y2 < y0 < HEIGHT - BOTTOM
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.1)
    ticks = {tick.text: tick.at for tick in chart.up}
    assert ticks["1"] == pytest.approx(y0, abs=0.1)
    assert ticks["3"] == pytest.approx(y1, abs=0.1)
    assert chart.captions == [(3, "last 2 at 100, lowest 1 at 0, highest 3 at 50")]


def test_one_spike_does_not_flatten_a_dense_curve() -> None:
    chart = draw("loss", [(0, [(step, 1e6 if step == 100 else step % 10) for step in range(1000)])])
    assert max(float(tick.text) for tick in chart.up) < 20
    assert all(-HEIGHT <= y <= 2 * HEIGHT for _, y in points(chart.lines[0].faint))


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-9])
def test_a_single_and_a_constant_value_can_be_drawn(value: float) -> None:
    for curve in ([(5, value)], [(5, value), (9, value)], [(0, value)]):
        chart = draw("it", [(0, curve)])
        assert len(points(chart.lines[0].path)) == 2
        assert all(TOP < y < HEIGHT - BOTTOM for _, y in points(chart.lines[0].path))
