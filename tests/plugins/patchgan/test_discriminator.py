"""The patch discriminator."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cyclevar.core.config.base import validate
from cyclevar.core.errors import ConfigError
from cyclevar.plugins.patchgan.config import PatchganConfig
from cyclevar.plugins.patchgan.discriminator import PatchDiscriminator


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def make(**settings: object) -> PatchDiscriminator:
    return PatchDiscriminator(validate(PatchganConfig, {"width": 8, "augment": [], **settings}))


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
def test_one_logit_a_patch_and_one_a_picture(levels: int, size: tuple[int, int]) -> None:
    patches, picture = make(levels=levels)(torch.randn(2, 3, *size))
    assert patches.shape == (2, 1, size[0] >> levels, size[1] >> levels)
    assert picture.shape == (2, 1)


def test_every_layer_is_normalised() -> None:
    judge = make()
    for _ in range(30):
        judge(torch.randn(1, 3, 32, 32))
    judge.eval()
    layers = [module for module in judge.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == 6
    for layer in layers:
        norm = float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2))
        assert norm == pytest.approx(1, abs=0.05)


def test_pictures_are_judged_apart() -> None:
    judge = make().eval()
    images = torch.randn(3, 3, 32, 32)
    together, alone = judge(images), judge(images[1:2])
    for head, other in zip(together, alone, strict=True):
        torch.testing.assert_close(head[1:2], other)


def test_augmentation_is_part_of_the_judgement() -> None:
    images = torch.randn(2, 3, 32, 32)
    plain, augmented = make().eval(), make(augment=["translation", "cutout"]).eval()
    assert torch.equal(plain(images)[0], plain(images)[0])
    assert not torch.equal(augmented(images)[0], augmented(images)[0])


def test_a_patch_sees_no_farther_than_its_field() -> None:
    judge = make(levels=2).eval()
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    patches = judge(images)[0]
    (gradient,) = torch.autograd.grad(patches[0, 0, 8, 8], images)
    seen = gradient[0].abs().sum(0).nonzero()
    low, high = seen.min(0).values, seen.max(0).values
    field = 10 + 2 * 2 * 4  # two strided 4x4 convolutions, then two 3x3 ones at a quarter of the size
    assert bool((high - low + 1 <= field).all())
    assert low[0] <= 32 <= high[0]


def test_settings() -> None:
    with pytest.raises(ConfigError, match="no augmentation named 'colour'"):
        make(augment=["colour"])
    with pytest.raises(ConfigError, match="levels is 7; expected less than or equal to 6"):
        make(levels=7)
