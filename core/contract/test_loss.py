"""What every picture loss promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.contract.fixtures import *  # noqa: F403
from cyclevar.core.contract.fixtures import Settings, build_part
from cyclevar.core.interfaces.criteria import PictureLoss

KIND = "loss"


@pytest.fixture(scope="module")
def loss(name: str, cyclevar_contract_settings: Settings) -> PictureLoss:
    loss = build_part(cyclevar_contract_settings, KIND, name)
    assert isinstance(loss, PictureLoss)
    return loss


def test_equal_pictures_cost_nothing_and_others_something(loss: PictureLoss, small_images: Tensor) -> None:
    nothing, something = loss(small_images, small_images), loss(0.5 * small_images, small_images)
    assert nothing.shape == something.shape == ()
    assert_close(nothing, torch.zeros(()), atol=1e-5, rtol=0)
    assert bool(something.isfinite())
    assert float(something) > 0


def test_it_can_be_learned_from(loss: PictureLoss, small_images: Tensor) -> None:
    output = (0.5 * small_images).requires_grad_()
    loss(output, small_images).backward()
    assert output.grad is not None
    assert bool(output.grad.isfinite().all())
    assert all(bool(picture.any()) for picture in output.grad)


def test_what_it_looks_with_is_frozen(loss: PictureLoss) -> None:
    assert not any(parameter.requires_grad for parameter in loss.parameters())
