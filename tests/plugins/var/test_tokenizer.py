"""VAR's tokenizer: which phi each scale uses, the kernels, the recursion's linearity."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from cyclevar.core.models.model import Model
from cyclevar.plugins.var.tokenizer import VarTokenizer, area, bicubic, phi_index


def test_the_ties_of_the_published_models() -> None:
    assert phi_index(10, 4) == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
    assert phi_index(5, 4) == (0, 1, 2, 2, 3)
    assert phi_index(1, 4) == (0,)
    assert set(phi_index(7, 1)) == {0}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_phi_indices_never_fall(count: int) -> None:
    for scales in range(1, 20):
        index = phi_index(scales, count)
        assert len(index) == scales
        assert sorted(index) == list(index)
        assert max(index) < count


def test_kernels() -> None:
    maps = torch.randn(2, 3, 4, 6)
    assert area(maps, (4, 6)) is maps
    assert bicubic(maps, (4, 6)) is maps
    assert_close(area(maps, (2, 3)), maps.unflatten(2, (2, 2)).unflatten(4, (3, 2)).mean((3, 5)))
    assert_close(bicubic(maps[..., :1, :1], (5, 5)), maps[..., :1, :1].expand(2, 3, 5, 5))
    assert bicubic(maps, (8, 8)).shape == (2, 3, 8, 8)


@torch.no_grad()
def test_absorbing_written_out(model: Model) -> None:
    tokenizer = cast(VarTokenizer, model.tokenizer)
    for k, size in enumerate(model.schedule.sizes):
        state = replace(tokenizer.begin(2, model.schedule), scale=k, value=torch.randn(2, 8, 4, 4))
        part = torch.randn(2, 8, *size)
        whole = part if k == 2 else F.interpolate(part, size=(4, 4), mode="bicubic", align_corners=False)
        phi = tokenizer.phi[(0, 2, 3)[k]]
        assert_close(tokenizer.absorb(state, part).value, state.value + 0.5 * whole + 0.5 * phi(whole))


@torch.no_grad()
def test_without_phi_the_maps_are_summed(model: Model) -> None:
    tokenizer = cast(VarTokenizer, model.tokenizer)
    tokenizer.phi_ratio = 0.0
    maps = [torch.randn(2, 8, *size) for size in model.schedule.sizes]
    total = torch.stack([bicubic(part, (4, 4)) for part in maps]).sum(0)
    assert_close(tokenizer.context(maps, model.schedule)[-1], total)


def test_strides(model: Model) -> None:
    assert model.tokenizer.stride == 2
    assert model.tokenizer.encode(torch.zeros(1, 3, 8, 8)).shape == (1, 8, 4, 4)
    assert model.image_size == (8, 8)
