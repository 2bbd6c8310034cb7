"""Hand-worked values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import tensor

from cyclevar.core.training.losses.adversarial import (
    accuracy,
    auc,
    colour_difference,
    discriminator_loss,
    generator_loss,
    r1_penalty,
    scores,
)


def test_the_generator_pays_minus_log_of_the_probability_to_pass_for_real() -> None:
    logits = tensor([[0.0, 2.0]])
    by_hand = (-math.log(0.5) - math.log(1 / (1 + math.exp(-2.0)))) / 2
    assert generator_loss([logits]).item() == pytest.approx(by_hand)


def test_heads_count_alike_whatever_their_size() -> None:
    small, large = torch.full((1, 1), 3.0), torch.full((1, 1, 9, 9), -3.0)
    mean = (generator_loss([small]) + generator_loss([large])) / 2
    assert generator_loss([small, large]).item() == pytest.approx(mean.item())


def test_the_generator_is_pushed_hardest_where_it_fails() -> None:
    logits = tensor([-4.0, 4.0], requires_grad=True)
    generator_loss([logits]).backward()
    assert logits.grad is not None
    assert logits.grad[0] < -0.45 < logits.grad[1] < 0


@pytest.mark.parametrize(
    ("real", "fake", "loss"),
    [(1.0, -1.0, 0.0), (5.0, -5.0, 0.0), (0.0, 0.0, 2.0), (-1.0, 0.5, 3.5), (0.25, -1.0, 0.75)],
)
def test_the_hinge(real: float, fake: float, loss: float) -> None:
    assert discriminator_loss([tensor([real])], [tensor([fake])]).item() == pytest.approx(loss)


def test_the_hinge_takes_different_counts_of_real_and_fake() -> None:
    real, fake = tensor([[2.0], [0.0]]), tensor([[0.0], [-2.0], [-2.0]])
    assert discriminator_loss([real], [fake]).item() == pytest.approx(1 / 2 + 1 / 3)


@pytest.mark.parametrize(
    ("real", "fake", "area"),
    [
        ([3.0, 4.0], [1.0, 2.0], 1.0),
        ([1.0, 2.0], [3.0, 4.0], 0.0),
        ([1.0, 1.0], [1.0], 0.5),
        ([1.0, 3.0], [2.0], 0.5),
        ([1.0, 2.0, 3.0], [0.0, 2.0], (1 + 1 + 1 + 0 + 0.5 + 1) / 6),
    ],
)
def test_the_area_under_the_curve(real: list[float], fake: list[float], area: float) -> None:
    assert auc(tensor(real), tensor(fake)).item() == pytest.approx(area)
    assert auc(tensor(fake), tensor(real)).item() == pytest.approx(1 - area)
    assert auc(tensor(real).exp(), tensor(fake).exp()).item() == pytest.approx(area)


def test_a_score_a_picture() -> None:
    patches = tensor([[[[1.0, 3.0]]], [[[0.0, 0.0]]]])
    whole = tensor([[4.0], [-2.0]])
    assert scores([patches, whole]).tolist() == [3.0, -1.0]


def test_half_precision_logits_are_judged_in_float32() -> None:
    logits = tensor([0.1, 0.7], dtype=torch.bfloat16)
    assert generator_loss([logits]).dtype == torch.float32
    assert discriminator_loss([logits], [logits]).dtype == torch.float32
    assert scores([logits[:, None]]).dtype == torch.float32


LOG2, HALF = math.log(2.0), math.log(1 + math.exp(-1.0))


@pytest.mark.parametrize(
    ("form", "generator", "discriminator"),
    [
        ("multilevel_sigmoid", LOG2 + HALF + 1, (LOG2 + LOG2) + (HALF + HALF + 1)),
        ("least_squares", ((0 - 1) ** 2 + (-1 - 1) ** 2) / 2, ((1 + 0) + (4 + 1)) / 2),
    ],
)
def test_adversarial_losses_by_hand(form: Any, generator: float, discriminator: float) -> None:
    """Two heads: fakes at 0 and -1, reals at 0 and -1 too."""
    heads = [tensor([[0.0]]), tensor([[-1.0]])]
    assert generator_loss(heads, form).item() == pytest.approx(generator)
    assert discriminator_loss(heads, heads, form).item() == pytest.approx(discriminator)


def test_the_hinge_generator_raises_logits() -> None:
    assert generator_loss([tensor([[2.0]]), tensor([[-5.0]])], "hinge").item() == pytest.approx(1.5)


def test_r1_is_the_squared_gradient() -> None:
    images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    slope = torch.arange(12.0).view(3, 2, 2)
    linear = (images * slope).sum((1, 2, 3))[:, None]
    assert r1_penalty([linear], images).item() == pytest.approx(float(slope.square().sum()) / 2)
    curved = images.square().sum((1, 2, 3))[:, None]
    expected = (2 * images).square().sum((1, 2, 3)).mean() / 2
    penalty = r1_penalty([curved], images)
    assert penalty.item() == pytest.approx(expected.item())
    (gradient,) = torch.autograd.grad(penalty, images)
    torch.testing.assert_close(gradient, 4 * images / 4)


def test_accuracy_counts_both_kinds_alike() -> None:
    real, fake = tensor([1.0, 0.2, -1.0, 3.0]), tensor([-1.0, 0.1])
    assert accuracy(real, fake).item() == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert accuracy(real, fake, "least_squares").item() == pytest.approx((2 / 4 + 1) / 2)


def test_colour_statistics_by_hand() -> None:
    """Channel one: means 0 and 0.5, deviations 1 and 0; the others equal."""
    x, y = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    x[0, 0, 0], y[0, 0, 0] = tensor([1.0, -1.0]), tensor([0.5, 0.5])
    expected = (0.5 + math.sqrt(1 + 1e-6) - math.sqrt(1e-6)) / 3
    assert colour_difference(x, y).item() == pytest.approx(expected, rel=1e-5)
    assert colour_difference(x.flip(3), x).item() == 0
    flat = torch.ones(1, 3, 2, 2, requires_grad=True)
    colour_difference(flat, torch.zeros(1, 3, 2, 2)).backward()
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all())
