"""A small Infinity with several levels in its autoencoder and chunks of blocks, as the published ones have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cyclevar.core.model import Model, build

SMALL: dict[str, Any] = {
    "tokenizer": {"bits": 6, "width": 32, "multipliers": [1, 2], "patch": 2, "residual_blocks": 1},
    "backbone": {
        "depth": 4,
        "width": 32,
        "heads": 2,
        "mlp_ratio": 8.0,
        "chunks": 2,
        "text_channels": 24,
        "text_length": 5,
        "text_encoder": "words",
        "word_buckets": 64,
        "drop_path": 0.0,
        "prompts": {"cat": "picture of a cat", "dog": "picture of a dog"},
    },
    "schedule": "1-2-4",
}


@pytest.fixture
def make_model() -> Callable[..., Model]:
    """Builds it with wide random weights; keywords override its settings by section."""

    def make(seed: int = 0, **overrides: Any) -> Model:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build("infinity", SMALL, **overrides)
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.2)
        return model.eval()

    return make


@pytest.fixture
def model(make_model: Callable[..., Model]) -> Model:
    return make_model()
