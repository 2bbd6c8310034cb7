"""Whatever is registered as a generator translates pictures without tokens as the trainer and the translator expect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.contract.fixtures import *  # noqa: F403
from cyclevar.core.contract.fixtures import DOMAINS
from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.models.direct import DirectModel
from cyclevar.core.models.model import load_picture_model
from cyclevar.core.pipelines.translator import Translator

SETTINGS = TranslationConfig()


def test_it_translates_to_what_it_is_told(direct: DirectModel, direct_images: Tensor) -> None:
    with torch.no_grad():
        context = direct.encode(direct_images)
        left, right = (direct.translate(context, direct.condition([name] * 2), SETTINGS).image for name in DOMAINS)
        mixed = direct.translate(context, direct.condition(DOMAINS), SETTINGS).image
    assert all(one.shape == direct_images.shape and one.min() >= -1 and one.max() <= 1 for one in (left, right))
    assert not torch.allclose(left, right)
    torch.testing.assert_close(mixed, torch.stack([left[0], right[1]]), atol=1e-5, rtol=0)


def test_gradients_reach_network_and_pictures(direct: DirectModel, direct_images: Tensor) -> None:
    given = direct_images.clone().requires_grad_()
    out = direct.translate(direct.encode(given), direct.condition(DOMAINS), SETTINGS, clamp=False).image
    out.square().mean().backward()
    assert given.grad is not None
    assert given.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in direct.translates.parameters() if parameter.requires_grad)
    direct.zero_grad(set_to_none=True)


def test_a_saved_one_comes_back(direct: DirectModel, direct_images: Tensor, tmp_path: Path) -> None:
    direct.save(tmp_path / "model.safetensors")
    loaded = load_picture_model(tmp_path / "model.safetensors").eval()
    assert (loaded.family, loaded.names, loaded.config) == (direct.family, direct.names, direct.config)
    with torch.no_grad():
        one, two = (
            m.translate(m.encode(direct_images), m.condition(DOMAINS), SETTINGS).image for m in (direct, loaded)
        )
    assert torch.equal(one, two)


def test_as_a_translator(direct: DirectModel, direct_images: Tensor, tmp_path: Path) -> None:
    Translator(direct, domains=DOMAINS).save(tmp_path)
    translator = Translator.load(tmp_path)
    assert translator(direct_images, "right").shape == direct_images.shape
    assert translator.for_inference() is translator
    with pytest.raises(ConfigError, match="no setting 'temperature'"):
        Translator.load(tmp_path, temperature=1.0)
    with pytest.raises(ConfigError, match="int8"):
        translator.for_inference(int8=True)


def test_other_targets_are_refused(direct: DirectModel) -> None:
    with pytest.raises(UnknownNameError):
        direct.condition(["up"])
    with pytest.raises(ConfigError):
        direct.learn(("one", "two", "three"))
