"""The parts that are tested, and what they are tested with. Every module of tests takes all of this over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclevar.core.contract.selection import chosen_entries
from cyclevar.core.errors import CheckpointError
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.interfaces.criteria import Discriminator
from cyclevar.core.interfaces.quantizer import Quantizer
from cyclevar.core.models.direct import DirectModel
from cyclevar.core.models.model import Model, build, build_direct
from cyclevar.core.next_scale.pyramid import Pyramid, tokenize

__all__ = [
    "DOMAINS",
    "Settings",
    "build_part",
    "direct",
    "direct_images",
    "discriminator",
    "host",
    "images",
    "latent",
    "model",
    "pyramid",
    "pytest_generate_tests",
    "quantizer",
    "small_images",
    "targets",
]

Settings = Callable[[str, str], Mapping[str, Any]]
"""What the fixture ``cyclevar_contract_settings`` is."""

DOMAINS = ("left", "right")

CHANNELS = 4
"""Of the vectors that registered quantizers are tested with."""

HOST = {"backbone": {"depth": 2, "width": 64, "heads": 2}, "schedule": "1-2-3-4"}
"""Settings of the small VAR that run-time parts are tested on."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test once for each part that is asked for."""
    plugin = metafunc.config.getoption("--cyclevar-contract", None)

    def names(kind: str) -> list[str]:
        return [entry.name for entry in chosen_entries(plugin, kind)]

    for fixture, kind in (("model", "backbone"), ("direct", "generator"), ("discriminator", "discriminator")):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, names(kind), indirect=True, scope="module")
    if "quantizer" in metafunc.fixturenames:
        both = [(kind, name) for kind in ("backbone", "quantizer") for name in names(kind)]
        metafunc.parametrize("quantizer", both, indirect=True, scope="module", ids=[name for _, name in both])
    if "name" in metafunc.fixturenames:
        kind = metafunc.module.KIND
        metafunc.parametrize("name", names(kind), scope="module")


def build_part(settings: Settings, kind: str, name: str, *given: Any) -> Any:
    """A registered part; weights that are not on this disk skip the test."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return get_manager().build(kind, name, settings(kind, name), *given)
        except CheckpointError as error:
            pytest.skip(f"{kind} {name}: {error}")


def smallest_preset(kind: str, name: str) -> str:
    """``tiny``, or else the first preset that the settings of a family know."""
    config = get_manager().registry.get(kind, name).load_config()
    presets = list(config.presets()) if config else []
    assert presets, f"the {kind} {name} has no preset: its settings' presets() must name one"
    return "tiny" if "tiny" in presets else presets[0]


def _disturbed(name: str, settings: Mapping[str, Any]) -> Model:
    """The smallest model of a family, its weights disturbed so that every input makes a difference."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(name, smallest_preset("backbone", name), **settings)
        with torch.no_grad():
            for parameter in model.backbone.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def _pictures(count: int, size: tuple[int, int]) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, cyclevar_contract_settings: Settings) -> Model:
    """The smallest model of a family."""
    return _disturbed(request.param, cyclevar_contract_settings("backbone", request.param))


@pytest.fixture(scope="module")
def host() -> Model:
    """A small VAR for what acts on models."""
    return _disturbed("var", HOST)


@pytest.fixture(scope="module")
def images(model: Model) -> Tensor:
    """Two pictures for the model."""
    return _pictures(2, model.image_size)


@pytest.fixture(scope="module")
def latent(model: Model, images: Tensor) -> Tensor:
    """Their latents."""
    return model.tokenizer.encode(images)


@pytest.fixture(scope="module")
def pyramid(model: Model, latent: Tensor) -> Pyramid:
    """Their codes and maps."""
    return tokenize(model.tokenizer, latent, model.schedule)


@pytest.fixture(scope="module")
def targets(model: Model) -> Sequence[str]:
    """Two different things to tell the backbone."""
    names = model.backbone.names
    return names[:2] if len(names) > 1 else ("a horse", "a zebra on a meadow")


@pytest.fixture(scope="module")
def quantizer(request: pytest.FixtureRequest, cyclevar_contract_settings: Settings) -> Quantizer:
    """That of a family, or a registered one for vectors of `CHANNELS`."""
    kind, name = request.param
    if kind == "backbone":
        return _disturbed(name, cyclevar_contract_settings(kind, name)).tokenizer.quantizer
    built = build_part(cyclevar_contract_settings, kind, name, CHANNELS)
    assert isinstance(built, Quantizer)
    return built.requires_grad_(False)


@pytest.fixture(scope="module")
def direct(request: pytest.FixtureRequest, cyclevar_contract_settings: Settings) -> DirectModel:
    """The smallest preset of a generator, told of two domains."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = cyclevar_contract_settings("generator", request.param)
        model = build_direct(request.param, smallest_preset("generator", request.param), **settings)
    assert model.names == ()
    assert list(model.learn(DOMAINS)) == list(DOMAINS)
    return model.eval()


@pytest.fixture(scope="module")
def direct_images(direct: DirectModel) -> Tensor:
    """Two pictures for it."""
    return _pictures(2, direct.image_size)


@pytest.fixture(scope="module")
def discriminator(request: pytest.FixtureRequest, cyclevar_contract_settings: Settings) -> Discriminator:
    """A discriminator with its default settings."""
    judge = build_part(cyclevar_contract_settings, "discriminator", request.param)
    assert isinstance(judge, Discriminator)
    return judge


@pytest.fixture
def small_images() -> Tensor:
    """Three pictures of 64 px."""
    return _pictures(3, (64, 64))
