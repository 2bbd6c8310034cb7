"""A model without tokens is a translator like every other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.models.direct import DirectModel
from cyclevar.core.models.model import build_direct, load_model
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.weights.shipped import WEIGHTS


@pytest.fixture
def model() -> DirectModel:
    torch.manual_seed(0)
    model = build_direct("cyclegan", "tiny", size=16, width=4, residual_blocks=1)
    model.learn(("noto", "fluent"))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_every_picture_goes_through_the_network_of_its_target(model: DirectModel, images: Tensor) -> None:
    found = Translator(model)(images, ["fluent", "noto", "noto", "fluent"])
    expected = [model.networks[to](image[None])[0] for to, image in zip((1, 0, 0, 1), images, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))


def test_one_target_alone_leaves_the_other_network_out(model: DirectModel, images: Tensor) -> None:
    torch.testing.assert_close(Translator(model)(images, "noto"), model.networks[0](images))


def test_a_round_trip_loses_nothing(model: DirectModel, images: Tensor) -> None:
    assert Translator(model).round_trip(images).equal(images)


def test_saved_and_opened_it_is_the_same(model: DirectModel, images: Tensor, tmp_path: Path) -> None:
    Translator(model).save(tmp_path)
    again = Translator.load(tmp_path)
    assert again.domains == ("noto", "fluent")
    assert again(images, "fluent").equal(Translator(model)(images, "fluent"))
    with pytest.raises(CheckpointError, match=r"generator cyclegan, which has no tokens; expected .*var"):
        load_model(tmp_path / WEIGHTS)


def test_settings_of_a_translation_with_tokens_are_refused(model: DirectModel, tmp_path: Path) -> None:
    Translator(model).save(tmp_path)
    with pytest.raises(ConfigError, match="cyclegan has no setting 'mode'"):
        Translator.load(tmp_path, mode="serial")


def test_a_moving_average_takes_the_place_of_the_networks(model: DirectModel, images: Tensor) -> None:
    other = build_direct("cyclegan", model.config)
    replaced = model.replaced(other.networks)
    assert replaced.names == model.names
    assert Translator(replaced)(images, "noto").equal(Translator(other)(images, "noto"))
    assert not Translator(model)(images, "noto").equal(Translator(other)(images, "noto"))


def test_it_learns_two_names_once(model: DirectModel) -> None:
    assert model.learn(("noto", "fluent")) == ()
    with pytest.raises(ConfigError, match=r"cannot learn a, b; expected noto and fluent"):
        model.learn(("a", "b"))
    fresh = build_direct("cyclegan", "tiny", size=16, width=4)
    for wrong in (("a", "a"), ("a", "b", "c"), (1, 2)):
        with pytest.raises(ConfigError, match="the names of two domains"):
            fresh.learn(wrong)
    with pytest.raises(UnknownNameError, match="'fluentt'"):
        model.condition(["fluentt"])
