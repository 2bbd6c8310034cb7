"""What figures have to say of pictures about which the answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cyclevar.core.evaluation.evaluate import compare
from cyclevar.core.evaluation.metrics import fid
from cyclevar.core.evaluation.networks import Judges
from cyclevar.core.evaluation.results import Evaluation
from cyclevar.core.networks.feature_net import load_feature_net


def pictures(count: int, seed: int, *, striped: bool = False) -> Tensor:
    """Smooth random pictures of one style; ``striped`` is another."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 2 - 1
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    return (smooth + 0.8 * (torch.arange(32) % 4 < 2).float()).clamp(-1, 1) if striped else smooth


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges.of(load_feature_net(input_size=32))


def judged(generated: Tensor, target: Tensor, judges: Judges, *, paired: bool = False) -> Evaluation:
    return compare(generated, target, judges=judges, paired=paired, metrics=("kid", "fid", "precision", "colour_shift"))


def test_a_set_is_no_distance_from_itself(judges: Judges) -> None:
    same = pictures(60, 0)
    row = judged(same, same, judges, paired=True).directions[0].rows[0]
    assert row.kid is not None
    assert row.kid.low is not None
    assert row.kid.high is not None
    assert row.kid.low <= 0 <= row.kid.high
    assert row.fid is not None
    assert abs(row.fid.value) < 1e-3
    assert row.colour_shift is not None
    assert row.colour_shift.value == pytest.approx(0, abs=1e-6)
    assert row.precision is not None
    assert row.precision.value == 1


def test_two_gaussians_are_as_far_apart_as_their_formula_says() -> None:
    """|m_1 - m_2|^2 + sum (s_1 - s_2)^2 for independent coordinates."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 20_000, 3, generator=generator, dtype=torch.float64)
    first = drawn[0] * torch.tensor([1.0, 2.0, 0.5])
    second = drawn[1] * torch.tensor([2.0, 2.0, 1.0]) + torch.tensor([1.0, -2.0, 0.0])
    assert fid(first, second).value == pytest.approx(1 + 4 + 1 + 0.25, rel=0.03)


def test_two_halves_of_one_style_are_near_and_two_styles_are_not(judges: Judges) -> None:
    halves = judged(pictures(80, 1), pictures(80, 2), judges).directions[0].rows[0].kid
    styles = judged(pictures(80, 1, striped=True), pictures(80, 2), judges).directions[0].rows[0].kid
    assert halves is not None
    assert halves.low is not None
    assert halves.high is not None
    assert styles is not None
    assert styles.low is not None
    assert halves.low <= 0 <= halves.high
    assert styles.low > 2 * halves.high
