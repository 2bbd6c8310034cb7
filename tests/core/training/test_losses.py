"""Hand-worked values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from cyclevar.core.training.losses import auc, discriminator_loss, generator_loss, scores


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
