"""The same tests for every registered family and discriminator, a stranger's too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclevar.core.interfaces import Discriminator
from cyclevar.core.manager import get_manager
from cyclevar.core.model import Model, build
from cyclevar.core.pyramid import Pyramid, tokenize

REGISTRY = get_manager().registry
SMALLER: dict[str, dict[str, Any]] = {
    "var": {"backbone": {"depth": 2, "width": 64, "heads": 2}, "schedule": "1-2-3-4"},
    "infinity": {"backbone": {"depth": 2, "width": 64, "heads": 2}, "schedule": "1-2-3-4"},
    "flexvar": {"backbone": {"depth": 2, "width": 64, "heads": 2}, "schedule": "1-2-3-4"},
}
"""What makes a family's preset `tiny` smaller still, where that can be."""


@pytest.fixture(scope="module", params=REGISTRY.names("backbone"))
def model(request: pytest.FixtureRequest) -> Model:
    """The smallest model of a family, its weights disturbed so that every input makes a difference."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(request.param, "tiny", **SMALLER.get(request.param, {}))
        with torch.no_grad():
            for parameter in model.backbone.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images(model: Model) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, *model.image_size, generator=generator) * 2 - 1


@pytest.fixture(scope="module")
def latent(model: Model, images: Tensor) -> Tensor:
    return model.tokenizer.encode(images)


@pytest.fixture(scope="module")
def pyramid(model: Model, latent: Tensor) -> Pyramid:
    return tokenize(model.tokenizer, latent, model.schedule)


@pytest.fixture(scope="module")
def targets(model: Model) -> Sequence[str]:
    """Two different things to tell the backbone."""
    names = model.backbone.names
    return names[:2] if len(names) > 1 else ("a horse", "a zebra on a meadow")


@pytest.fixture(scope="module", params=REGISTRY.names("discriminator"))
def discriminator(request: pytest.FixtureRequest) -> Discriminator:
    entry = REGISTRY.get("discriminator", request.param)
    config = entry.load_config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = request.getfixturevalue("small_clip") if request.param == "clip" else {}
        judge = entry.load()(*([] if config is None else [config(**settings)]))
    assert isinstance(judge, Discriminator)
    return judge
