"""Infinity's schedules by budget and aspect ratio."""

from __future__ import annotations

import pytest

from cyclevar.core.errors import ConfigError
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.infinity.config import PRESETS, InfinityConfig
from cyclevar.plugins.infinity.schedules import BUDGETS, NAMED, SIZES, nearest_name, nearest_ratio, reference_size


def test_names_and_lists_of_sizes() -> None:
    assert InfinityConfig.parse_schedule("0.06M@1.0") == ScaleSchedule.square(1, 2, 4, 6, 8, 12, 16)
    assert InfinityConfig.parse_schedule("0.25M@0.75").sizes[-3:] == ((18, 24), (21, 28), (27, 36))
    assert InfinityConfig.parse_schedule("1-2-3") == ScaleSchedule.square(1, 2, 3)
    assert len(InfinityConfig.parse_schedule("1M@1.0")) == 13


def test_every_ratio_has_its_turned_twin_and_every_budget_its_area() -> None:
    assert len(SIZES) == 15
    assert len(NAMED) == 15 * len(BUDGETS)
    for ratio, sizes in SIZES.items():
        turned = SIZES[ratio if ratio == 1 else min(SIZES, key=lambda other: abs(other - 1 / ratio))]
        assert sizes == tuple((width, height) for height, width in turned)
        assert sizes[0] == (1, 1)
        for side, count in ((16, 7), (32, 10), (48, 12), (64, 13)):
            height, width = sizes[count - 1]
            assert height * width == pytest.approx(side**2, rel=0.3)
            assert height / width == pytest.approx(ratio, rel=0.05)


@pytest.mark.parametrize("text", ["0.06M@1.1", "2M@1.0", "@"])
def test_unknown_names(text: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"no schedule '{text}'; expected one of 0.06M, .*1M, then @.* 0.8, 1.0, 1.25"
    ):
        InfinityConfig.parse_schedule(text)
    with pytest.raises(ConfigError, match="is not a schedule"):
        InfinityConfig.parse_schedule("one-two")


def test_the_schedule_nearest_to_a_picture() -> None:
    assert nearest_ratio(0.7) == 0.666
    assert nearest_ratio(9.0) == 3.0
    assert nearest_name((32, 32)) == "0.25M@1.0"
    assert nearest_name((15, 20)) == "0.06M@0.75"
    assert nearest_name((70, 56)) == "1M@1.25"
    config = PRESETS["2b"]
    assert str(config.nearest_schedule((31, 33))) == NAMED["0.25M@1.0"]
    own = config.model_copy(update={"schedule": "1-2-5"})
    assert own.nearest_schedule((5, 5)) == ScaleSchedule.square(1, 2, 5)


def test_positions_are_counted_on_the_largest_budget() -> None:
    assert reference_size((16, 16)) == reference_size((4, 4)) == (64, 64)
    assert reference_size((20, 15)) == (72, 54)
    assert reference_size((3, 5)) == (48, 84)
