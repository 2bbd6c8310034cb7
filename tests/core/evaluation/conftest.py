"""Pictures that need no data set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


def draw_shapes(count: int, *, seed: int, side: int = 32) -> Tensor:
    """Pictures ``[count,3,side,side]`` in [-1,1] of one random ellipse each, in a random colour on white."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, 1, 1, generator=generator) * 0.4 + 0.3
    radius = torch.rand(count, 2, 1, 1, generator=generator) * 0.3 + 0.1
    colour = torch.rand(count, 3, 1, 1, generator=generator) * 1.6 - 1
    axis = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = ((torch.stack([y, x]) - centre) / radius).square().sum(1, keepdim=True) < 1
    return torch.where(inside, colour, torch.ones(()))


@pytest.fixture(scope="session")
def shapes() -> Tensor:
    return draw_shapes(24, seed=0)


@pytest.fixture(scope="session")
def other_shapes() -> Tensor:
    return draw_shapes(30, seed=1)
