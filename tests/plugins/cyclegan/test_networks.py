"""The published sizes of CycleGAN's networks, and what its layers do at the border."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cyclevar.core.models.model import build_direct
from cyclevar.plugins.cyclegan.config import CycleganConfig, Patchgan70Config
from cyclevar.plugins.cyclegan.discriminator import Patchgan70
from cyclevar.plugins.cyclegan.generator import ResidualGenerator


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("preset", "millions"), [("resnet9", 11.378), ("resnet6", 7.838)])
def test_the_generators_are_as_large_as_the_published_ones(preset: str, millions: float) -> None:
    """The public implementation prints these numbers of its resnet_9blocks and resnet_6blocks (ngf 64)."""
    with torch.device("meta"):
        network = ResidualGenerator(CycleganConfig.presets()[preset])
    assert round(parameters(network) / 1e6, 3) == millions


def test_the_discriminator_is_as_large_as_the_published_one_and_sees_patches_of_70_pixels() -> None:
    judge = Patchgan70(Patchgan70Config())
    assert round(parameters(judge) / 1e6, 3) == 2.765
    layers = nn.Sequential(*(one for one in judge.layers if not isinstance(one, nn.InstanceNorm2d)))
    images = torch.zeros(1, 3, 256, 256, requires_grad=True)
    logits = layers(images + torch.randn_like(images))  # without the norms, which look at the whole picture
    assert logits.shape == (1, 1, 30, 30)
    [gradient] = torch.autograd.grad(logits[0, 0, 15, 15], images)
    rows, columns = gradient.abs().sum((0, 1)).nonzero().unbind(1)
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (70, 70)


def test_pictures_go_in_and_out_at_any_multiple_of_four() -> None:
    network = ResidualGenerator(CycleganConfig(size=24, width=4, residual_blocks=1))
    out = network(torch.rand(2, 3, 24, 32) * 2 - 1)
    assert out.shape == (2, 3, 24, 32)
    assert out.abs().max() <= 1


def test_the_weights_begin_as_the_paper_says() -> None:
    torch.manual_seed(0)
    network = build_direct("cyclegan", "tiny").networks[0]
    weights = torch.cat([p.flatten() for p in network.parameters() if p.ndim == 4])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert not any(p.any() for p in network.parameters() if p.ndim == 1)
