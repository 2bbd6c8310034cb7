"""Schedules: reading and writing, packing and unpacking are inverses of each other."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cyclevar.core.errors import ConfigError
from cyclevar.core.schedule import ScaleSchedule

growth = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6)


@st.composite
def schedules(draw: st.DrawFn) -> ScaleSchedule:
    heights, widths = zip(*draw(growth), strict=True)
    return ScaleSchedule(
        tuple((1 + h, 1 + w) for h, w in zip(itertools.accumulate(heights), itertools.accumulate(widths), strict=True))
    )


@given(schedules())
def test_parsing_inverts_printing(schedule: ScaleSchedule) -> None:
    assert ScaleSchedule.parse(str(schedule)) == schedule


def test_parsing() -> None:
    assert ScaleSchedule.parse("1-2-3-16") == ScaleSchedule.square(1, 2, 3, 16)
    assert ScaleSchedule.parse(" 1x1, 2x3_4x6 ").sizes == ((1, 1), (2, 3), (4, 6))
    assert str(ScaleSchedule(((1, 1), (2, 3)))) == "1-2x3"


@given(schedules())
def test_spans_tile_the_sequence(schedule: ScaleSchedule) -> None:
    begins, ends = zip(*schedule.spans, strict=True)
    assert begins == (0, *ends[:-1])
    assert ends[-1] == schedule.total == sum(schedule.lengths)
    assert tuple(end - begin for begin, end in schedule.spans) == schedule.lengths
    assert len(schedule) == len(schedule.lengths)
    assert schedule.full == schedule.sizes[-1]


@given(schedules(), st.data())
def test_unpacking_inverts_packing(schedule: ScaleSchedule, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(schedule) - 1))
    last = data.draw(st.integers(first + 1, len(schedule)))
    maps = [torch.randn(2, 3, h, w) for h, w in schedule.sizes[first:last]]
    tokens = schedule.pack(maps, first=first)
    assert tokens.shape == (2, sum(schedule.lengths[first:last]), 3)
    for part, back in zip(maps, schedule.unpack(tokens, first=first), strict=True):
        assert torch.equal(part, back)


def test_tokens_lie_row_by_row() -> None:
    schedule = ScaleSchedule(((1, 1), (2, 3)))
    maps = [torch.zeros(1, 1, 1, 1), torch.arange(1.0, 7.0).view(1, 1, 2, 3)]
    assert schedule.pack(maps).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("text", ["", "1-x", "1--2x", "a", "1.5-2", "2x"])
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a schedule"):
        ScaleSchedule.parse(text)


def test_sizes_must_be_positive_and_grow() -> None:
    with pytest.raises(ConfigError, match="positive"):
        ScaleSchedule.square(0, 1)
    with pytest.raises(ConfigError, match="positive"):
        ScaleSchedule(())
    with pytest.raises(ConfigError, match="shrinks from 4x4 to 5x3"):
        ScaleSchedule(((4, 4), (5, 3)))


def test_maps_and_tokens_must_fit() -> None:
    schedule = ScaleSchedule.square(1, 2)
    with pytest.raises(ConfigError, match=r"size \(3, 3\) was given; expected size \(2, 2\) of 1-2"):
        schedule.pack([torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 3, 3)])
    with pytest.raises(ConfigError, match="3 tokens are not whole scales"):
        schedule.unpack(torch.zeros(1, 3, 1))
    with pytest.raises(ConfigError, match="6 tokens are not whole scales"):
        schedule.unpack(torch.zeros(1, 6, 1))
