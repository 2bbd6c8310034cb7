"""Precision and recall on points whose neighbours can be counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cyclevar.core.errors import DataError
from cyclevar.core.evaluation.metrics import precision


def points(*places: float) -> Tensor:
    return torch.tensor(places)[:, None]


TARGETS = points(0, 1, 2, 3, 10)
"""Their third nearest others are 3, 2, 2, 3 and 9 away."""


def test_precision_by_hand() -> None:
    assert precision(points(-2.5, -4, 19, 20), TARGETS).value == 0.5
    assert precision(points(-3), TARGETS).value == 1  # the border belongs to it
    assert precision(TARGETS, TARGETS).value == 1


def test_recall_is_precision_with_the_sides_exchanged() -> None:
    outputs = points(0, 0.1, 0.2, 0.3)  # radii 0.3, 0.2, 0.2, 0.3
    assert precision(TARGETS, outputs).value == pytest.approx(1 / 5)
    assert precision(outputs, TARGETS).value == 1


def test_one_neighbour() -> None:
    assert precision(points(-1.1, 17.1), TARGETS, neighbours=1).value == 0
    assert precision(points(-0.9, 16.9), TARGETS, neighbours=1).value == 1


def test_too_few_targets() -> None:
    with pytest.raises(DataError, match="with 3 pictures"):
        precision(TARGETS, points(1, 2, 3))
