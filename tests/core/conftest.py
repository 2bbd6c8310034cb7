"""A small model with wide random weights, so that every input makes a difference to every output; the feature net."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cyclevar.core.models.model import Model, build
from cyclevar.core.networks.feature_net import FeatureNet, load_feature_net

SMALL: dict[str, Any] = {
    "tokenizer": {
        "codebook_size": 24,
        "channels": 8,
        "width": 32,
        "multipliers": [1],
        "residual_blocks": 1,
        "patch": 4,
    },
    "backbone": {"depth": 2, "width": 32, "heads": 2, "classes": 4, "class_names": ["cat", "dog"]},
    "schedule": "1-2-3-4",
}

MakeModel = Callable[..., Model]


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Builds a VAR of 16 px on four scales; keywords override its settings by section."""

    def make(seed: int = 0, **overrides: Any) -> Model:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build("var", SMALL, **overrides)
            for parameter in model.backbone.parameters():
                nn.init.normal_(parameter, std=0.3)
            nn.init.normal_(model.tokenizer.quantizer.get_parameter("codebook"))
        return model.eval()

    return make


@pytest.fixture
def model(make_model: MakeModel) -> Model:
    return make_model()


@pytest.fixture
def images() -> torch.Tensor:
    """Two pictures for the small model."""
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="session")
def net() -> FeatureNet:
    """The feature net at a side small enough for tests."""
    return load_feature_net(input_size=64)


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
