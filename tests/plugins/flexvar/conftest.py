"""A small FlexVAR with several levels in its autoencoder, as the published ones have."""

from __future__ import annotations

from typing import Any

import pytest

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
def small() -> tuple[str, dict[str, Any]]:
    return "flexvar", SMALL
