"""A small Infinity with several levels in its autoencoder and chunks of blocks, as the published ones have."""

from __future__ import annotations

from typing import Any

import pytest

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
def small() -> tuple[str, dict[str, Any]]:
    return "infinity", SMALL
