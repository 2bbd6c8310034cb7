"""What every discriminator promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cyclevar.core.interfaces import Discriminator


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_heads_of_logits(discriminator: Discriminator, images: Tensor) -> None:
    heads = discriminator(images)
    assert heads
    for head in heads:
        assert head.shape[0] == 3
        assert head.is_floating_point()
        assert bool(head.isfinite().all())


def test_gradients_reach_the_pictures_and_what_is_trained(discriminator: Discriminator, images: Tensor) -> None:
    images.requires_grad_()
    discriminator.zero_grad()
    torch.stack([head.mean() for head in discriminator(images)]).sum().backward()
    assert images.grad is not None
    assert bool(images.grad.isfinite().all())
    assert all(bool(picture.any()) for picture in images.grad)
    trained = [parameter for parameter in discriminator.parameters() if parameter.requires_grad]
    assert trained
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in trained)


def test_pictures_are_not_changed(discriminator: Discriminator, images: Tensor) -> None:
    before = images.clone()
    with torch.no_grad():
        discriminator(images)
    assert torch.equal(images, before)


def test_its_state_can_be_kept(discriminator: Discriminator) -> None:
    state = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
    discriminator.load_state_dict(state)
