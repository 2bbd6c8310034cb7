"""What every discriminator promises."""

from __future__ import annotations

import torch
from torch import Tensor

from cyclevar.core.contract.fixtures import *  # noqa: F403
from cyclevar.core.interfaces.criteria import Discriminator


def test_heads_of_logits(discriminator: Discriminator, small_images: Tensor) -> None:
    heads = discriminator(small_images)
    assert heads
    for head in heads:
        assert head.shape[0] == 3
        assert head.is_floating_point()
        assert bool(head.isfinite().all())


def test_gradients_reach_the_pictures_and_what_is_trained(discriminator: Discriminator, small_images: Tensor) -> None:
    small_images.requires_grad_()
    discriminator.zero_grad()
    torch.stack([head.mean() for head in discriminator(small_images)]).sum().backward()
    assert small_images.grad is not None
    assert bool(small_images.grad.isfinite().all())
    assert all(bool(picture.any()) for picture in small_images.grad)
    trained = [parameter for parameter in discriminator.parameters() if parameter.requires_grad]
    assert trained
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in trained)


def test_pictures_are_not_changed(discriminator: Discriminator, small_images: Tensor) -> None:
    before = small_images.clone()
    with torch.no_grad():
        discriminator(small_images)
    assert torch.equal(small_images, before)


def test_its_state_can_be_kept(discriminator: Discriminator) -> None:
    state = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
    discriminator.load_state_dict(state)
