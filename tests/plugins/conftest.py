"""What the tests of all families share: the small model that a family's folder describes, and golden numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cyclevar.core.models.model import Model, build

Numbers = tuple[dict[str, Any], dict[str, Tensor]]


def read_numbers(folder: Path, name: str) -> Numbers:
    return json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors")


@pytest.fixture
def make_model(small: tuple[str, dict[str, Any]]) -> Callable[..., Model]:
    """Builds ``small``, a family and its settings, with wide random weights; keywords override settings by section."""
    family, settings = small

    def make(seed: int = 0, **overrides: Any) -> Model:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(family, settings, **overrides)
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.2)
        return model.eval()

    return make


@pytest.fixture
def model(make_model: Callable[..., Model]) -> Model:
    return make_model()


@pytest.fixture(scope="session")
def numbers(golden: Path) -> Callable[[str], Numbers]:
    """Reads a golden by name: its description and its tensors."""
    return lambda name: read_numbers(golden, name)


@pytest.fixture(scope="module")
def small_numbers(request: pytest.FixtureRequest) -> Numbers:
    """What of the golden numbers ships beside the test (tools/derive_small_golden.py)."""
    return read_numbers(request.path.parent / "data", "small")


@pytest.fixture(scope="module")
def info(small_numbers: Numbers) -> dict[str, Any]:
    return small_numbers[0]


@pytest.fixture(scope="module")
def tensors(small_numbers: Numbers) -> dict[str, Tensor]:
    return small_numbers[1]
