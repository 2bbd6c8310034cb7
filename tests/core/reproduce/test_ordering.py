"""Marks on hand-made numbers."""

from __future__ import annotations

import pytest

from cyclevar.core.reproduce.ordering import Measured, Summary, judge, summarise


def summary(low: float, high: float) -> Summary:
    found = summarise([Measured((low + high) / 2, low, high)])
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("better", "worse", "mark"),
    [
        ((1, 2), (3, 4), "agrees"),
        ((3, 4), (1, 2), "disagrees"),
        ((1, 3), (2, 4), "within the interval"),
        ((2, 4), (1, 3), "within the interval"),
        ((1, 2), (2, 3), "within the interval"),
        ((2, 3), (1, 2), "within the interval"),
        ((1, 9), (4, 5), "within the interval"),
    ],
)
def test_a_difference_counts_where_intervals_do_not_touch(
    better: tuple[float, float], worse: tuple[float, float], mark: str
) -> None:
    assert judge(summary(*better), summary(*worse)) == mark


def test_what_lacks_is_no_claim() -> None:
    assert summarise([]) is None
    assert judge(None, summary(1, 2)) == "not measured"
    assert judge(summary(1, 2), None) == "not measured"


def test_several_seeds() -> None:
    found = summarise([Measured(10, 9, 11), Measured(14, 12, 17), Measured(12, 8, 13)])
    assert found == Summary(mean=12, low=8, high=17, spread=2.0, seeds=3)
    single = summarise([Measured(10, 9, 11)])
    assert single == Summary(mean=10, low=9, high=11, spread=None, seeds=1)


def test_a_seed_that_contradicts_takes_the_claim_back() -> None:
    worse = summary(20, 30)
    assert judge(summarise([Measured(10, 8, 12)]), worse) == "agrees"
    assert judge(summarise([Measured(10, 8, 12), Measured(25, 19, 31)]), worse) == "within the interval"
