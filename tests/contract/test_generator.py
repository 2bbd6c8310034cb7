"""Whatever is registered as a generator translates pictures without tokens as the trainer and the translator expect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cyclevar.core.config import TranslationConfig
from cyclevar.core.direct import DirectModel
from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.manager import get_manager
from cyclevar.core.model import build_direct, load_picture_model
from cyclevar.core.translator import Translator

DOMAINS = ("left", "right")
SETTINGS = TranslationConfig()


@pytest.fixture(scope="module", params=get_manager().registry.names("generator"))
def model(request: pytest.FixtureRequest) -> DirectModel:
    """The tiny preset, told of two domains."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_direct(request.param, "tiny")
    assert model.names == ()
    assert list(model.learn(DOMAINS)) == list(DOMAINS)
    return model.eval()


@pytest.fixture(scope="module")
def images(model: DirectModel) -> Tensor:
    return torch.rand(2, 3, *model.image_size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_it_translates_to_what_it_is_told(model: DirectModel, images: Tensor) -> None:
    with torch.no_grad():
        context = model.encode(images)
        made = [model.translate(context, model.condition([name] * 2), SETTINGS).image for name in DOMAINS]
        mixed = model.translate(context, model.condition(DOMAINS), SETTINGS).image
    assert all(one.shape == images.shape and one.min() >= -1 and one.max() <= 1 for one in made)
    assert not torch.allclose(*made)
    torch.testing.assert_close(mixed, torch.stack([made[0][0], made[1][1]]), atol=1e-5, rtol=0)


def test_gradients_reach_network_and_pictures(model: DirectModel, images: Tensor) -> None:
    given = images.clone().requires_grad_()
    out = model.translate(model.encode(given), model.condition(DOMAINS), SETTINGS, clamp=False).image
    out.square().mean().backward()
    assert given.grad is not None
    assert given.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in model.translates.parameters() if parameter.requires_grad)
    model.zero_grad(set_to_none=True)


def test_a_saved_one_comes_back(model: DirectModel, images: Tensor, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    loaded = load_picture_model(tmp_path / "model.safetensors").eval()
    assert (loaded.family, loaded.names, loaded.config) == (model.family, model.names, model.config)
    with torch.no_grad():
        one, two = (m.translate(m.encode(images), m.condition(DOMAINS), SETTINGS).image for m in (model, loaded))
    assert torch.equal(one, two)


def test_as_a_translator(model: DirectModel, images: Tensor, tmp_path: Path) -> None:
    Translator(model, domains=DOMAINS).save(tmp_path)
    translator = Translator.load(tmp_path)
    assert translator(images, "right").shape == images.shape
    assert translator.for_inference() is translator
    with pytest.raises(ConfigError, match="no setting 'temperature'"):
        Translator.load(tmp_path, temperature=1.0)
    with pytest.raises(ConfigError, match="int8"):
        translator.for_inference(int8=True)


def test_other_targets_are_refused(model: DirectModel) -> None:
    with pytest.raises(UnknownNameError):
        model.condition(["up"])
    with pytest.raises(ConfigError):
        model.learn(("one", "two", "three"))
