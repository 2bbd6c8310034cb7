"""A small FlexVAR with several levels in its autoencoder, as the published ones have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cyclevar.core.model import Model, build

SMALL: dict[str, Any] = {
    "tokenizer": {
        "codebook_size": 24,
        "channels": 8,
        "z_channels": 12,
        "width": 32,
        "multipliers": [1, 2],
        "residual_blocks": 1,
    },
    "backbone": {
        "depth": 2,
        "width": 32,
        "heads": 2,
        "classes": 4,
        "class_names": ["cat", "dog"],
        "position_grid": 8,
    },
    "schedule": "1-2-4",
}


@pytest.fixture
def make_model() -> Callable[..., Model]:
    """Builds it with wide random weights; keywords override its settings by section."""

    def make(seed: int = 0, **overrides: Any) -> Model:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build("flexvar", SMALL, **overrides)
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.2)
        return model.eval()

    return make


@pytest.fixture
def model(make_model: Callable[..., Model]) -> Model:
    return make_model()
