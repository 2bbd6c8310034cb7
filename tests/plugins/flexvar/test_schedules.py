"""FlexVAR's schedules: the named ones, those for any size, and those that a training draws."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from cyclevar.core.errors import ConfigError
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.flexvar.config import PRESETS, SCHEDULES, FlexVarConfig
from cyclevar.plugins.flexvar.schedules import draw_schedule, stretch

USUAL = ScaleSchedule.parse(SCHEDULES["10-steps"])


def test_named_schedules_have_as_many_steps_as_they_say() -> None:
    for name, text in SCHEDULES.items():
        schedule = FlexVarConfig.parse_schedule(name)
        assert str(schedule) == text
        assert name.endswith(f"{len(schedule)}-steps")
        pixels = int(name.split("px")[0]) if "px" in name else 256
        assert schedule.full == (pixels // 16, pixels // 16)
    assert FlexVarConfig.parse_schedule("1-2-7") == ScaleSchedule.square(1, 2, 7)
    with pytest.raises(ConfigError, match="'5-stepts' is not a schedule"):
        FlexVarConfig.parse_schedule("5-stepts")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((16, 16), "1-2-3-4-6-8-12-16"),
        ((24, 24), "1-2-3-4-6-8-12-16-24"),
        ((32, 32), "1-2-3-4-6-8-12-16-24-32"),
        ((8, 16), "1-1x2-2x3-2x4-3x6-4x8-6x12-8x16"),
        ((16, 8), "1-2x1-3x2-4x2-6x3-8x4-12x6-16x8"),
        ((5, 5), "1-2-3-4-5"),
        ((1, 1), "1"),
    ],
)
def test_there_is_a_schedule_for_every_size(size: tuple[int, int], expected: str) -> None:
    assert str(PRESETS["tiny"].nearest_schedule(size)) == expected


def test_stretching_ends_at_the_size() -> None:
    for size in ((3, 40), (64, 64), (17, 16), (100, 1)):
        schedule = stretch(USUAL, size)
        assert schedule.full == size
        assert len(set(schedule.sizes)) == len(schedule)


def test_drawn_schedules_are_the_published_ones() -> None:
    schedules = [draw_schedule(USUAL, Random(f"{i}")) for i in range(4000)]
    assert all(schedule.full == (16, 16) and schedule.total <= USUAL.total for schedule in schedules)
    assert all(schedule.sizes[:2] == ((1, 1), (2, 2)) for schedule in schedules)
    lengths = Counter(map(len, schedules))
    assert set(lengths) <= set(range(4, 11))
    assert 0.03 < sum(schedule == USUAL for schedule in schedules) / len(schedules) < 0.08
    assert len(set(schedules)) > 500
    met = {side for schedule in schedules for side, _ in schedule.sizes}
    assert met == set(range(1, 17))
    for schedule in schedules:
        sides = [side for side, _ in schedule.sizes[2:-1]]
        if schedule != USUAL:
            assert sum(side <= 10 for side in sides) <= 5
            assert sum(side > 10 for side in sides) <= 2


@pytest.mark.parametrize("text", ["1", "1-2", "1-2-3", "1-2-4", "1-2-3-4-6-8-12-16", "1-1x2-2x3-2x4-4x8"])
def test_every_schedule_can_be_drawn_around(text: str) -> None:
    usual = ScaleSchedule.parse(text)
    for i in range(200):
        drawn = draw_schedule(usual, Random(f"{i}"))
        assert drawn.full == usual.full
        assert drawn.total <= usual.total
        assert drawn == draw_schedule(usual, Random(f"{i}"))
