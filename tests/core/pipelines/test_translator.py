"""A translator keeps its word: the same pictures whatever the batch, from memory or from disk; damage is named."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.runtime.device import choose_device
from cyclevar.core.weights.checkpoints import load_tensors, save_tensors
from cyclevar.core.weights.shipped import SETTINGS, WEIGHTS


@pytest.fixture(scope="module")
def translator(small_translator: Path) -> Translator:
    return Translator.load(small_translator)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def copy(small_translator: Path, tmp_path: Path) -> Path:
    """A translator's folder to be damaged."""
    return Path(shutil.copytree(small_translator, tmp_path / "copy"))


@pytest.mark.parametrize("mode", ["parallel", "serial"])
def test_the_same_picture_comes_out_every_time_and_in_every_batch(
    small_translator: Path, images: Tensor, mode: str
) -> None:
    translator = Translator.load(small_translator, mode=mode)
    together = translator(images, "fluent")
    assert together.shape == images.shape
    assert together.abs().max() <= 1
    assert torch.equal(translator(images, "fluent"), together)
    alone = torch.cat([translator(image[None], "fluent") for image in images])
    assert torch.allclose(alone, together, atol=1e-5)
    assert (translator(images, "noto") - together).abs().max() > 0.01
    assert (translator.round_trip(images) - together).abs().max() > 0.01


def test_targets_can_be_given_for_each_picture_and_as_classes(translator: Translator, images: Tensor) -> None:
    mixed = translator(images[:2], ["noto", "fluent"])
    assert torch.allclose(mixed[:1], translator(images[:1], "noto"), atol=1e-5)
    assert torch.allclose(mixed[1:], translator(images[1:2], "fluent"), atol=1e-5)
    assert torch.equal(translator(images[:2], [0, 1]), mixed)
    assert torch.equal(translator(images[:2], torch.tensor([0, 1])), mixed)
    assert torch.equal(translator(images[:1], "1"), translator(images[:1], "fluent"))


def test_names_of_the_users_own_stand_for_targets(translator: Translator, images: Tensor) -> None:
    named = Translator(translator.model, domains=["cat", "dog"], targets=[0, "fluent"])
    assert torch.equal(named(images, "cat"), translator(images, "noto"))
    assert torch.equal(named(images, "dog"), translator(images, "fluent"))
    with pytest.raises(UnknownNameError, match=r"one of cat, dog, fluent, noto; did you mean 'dog'"):
        named(images, "dogg")
    with pytest.raises(ConfigError, match="1 targets are given for 2 domains"):
        Translator(translator.model, domains=["cat", "dog"], targets=[0])


def test_the_default_target_is_the_second_of_two(translator: Translator) -> None:
    assert translator.default_target == "fluent"
    with pytest.raises(ConfigError, match=r"is not said; expected one of noto\."):
        _ = Translator(translator.model, domains=["noto"]).default_target


def test_saved_and_loaded_it_gives_equal_pictures(translator: Translator, images: Tensor, tmp_path: Path) -> None:
    changed = Translator(translator.model, domains=["cat", "dog"], targets=[0, "fluent"], temperature=0.5, fusion=0.8)
    changed.save(tmp_path)
    loaded = Translator.load(tmp_path)
    assert (loaded.domains, loaded.targets, loaded.config) == (changed.domains, changed.targets, changed.config)
    assert torch.equal(loaded(images, "dog"), changed(images, "dog"))
    assert Translator.load(tmp_path, fusion=0.3).config == changed.config.model_copy(update={"fusion": 0.3})


def test_half_the_bytes_give_nearly_the_same(translator: Translator, images: Tensor, tmp_path: Path) -> None:
    translator.save(tmp_path / "whole")
    translator.save(tmp_path / "half", half=True)
    assert (tmp_path / "half" / WEIGHTS).stat().st_size < 0.6 * (tmp_path / "whole" / WEIGHTS).stat().st_size
    difference = Translator.load(tmp_path / "half")(images, "fluent") - translator(images, "fluent")
    assert 0 < difference.abs().mean() < 0.05


def test_what_does_not_fit_is_refused(translator: Translator, images: Tensor, small_translator: Path) -> None:
    with pytest.raises(ConfigError, match=r"shape \[4, 3, 8, 16\] were given; expected \[B, 3, 16, 16\]"):
        translator(images[:, :, :8], "fluent")
    with pytest.raises(ConfigError, match="3 targets are given for 4 images"):
        translator(images, ["noto"] * 3)
    with pytest.raises(UnknownNameError, match=r"no domain named 'fluentt'.*did you mean 'fluent'"):
        translator(images, "fluentt")
    with pytest.raises(ConfigError, match="class 2 is out of range"):
        translator(images, 2)
    with pytest.raises(UnknownNameError, match="did you mean 'temperature'"):
        Translator.load(small_translator, temprature=2)


@pytest.mark.parametrize(
    "content", ["", "{", "[1, 2]", "{}", '{"domains": ["a"], "targets": [], "translation": {"fusion": 2}}', "\xff"]
)
def test_damaged_settings_are_named(copy: Path, content: str) -> None:
    (copy / SETTINGS).write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"translator\.json is damaged"):
        Translator.load(copy)


def test_missing_files_are_named(copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors is not a file"):
        Translator.load(copy)
    (copy / SETTINGS).unlink()
    with pytest.raises(CheckpointError, match=r"translator.json is not a file"):
        Translator.load(copy)


def rewrite(path: Path, change: dict[str, Tensor | None], **settings: Any) -> None:
    tensors, metadata = load_tensors(path)
    kept = {name: change.get(name, tensor) for name, tensor in tensors.items()}
    save_tensors(path, {name: tensor for name, tensor in kept.items() if tensor is not None}, metadata | settings)


def test_wrong_shapes_are_named_by_key(copy: Path) -> None:
    rewrite(copy / WEIGHTS, {"backbone.head.weight": torch.zeros(3, 32), "backbone.head.bias": None})
    with pytest.raises(CheckpointError) as caught:
        Translator.load(copy)
    message = str(caught.value)
    assert "backbone.head.weight has [3, 32], expected [32, 32]" in message
    assert "backbone.head.bias" in message


def test_settings_that_no_longer_hold_are_named(copy: Path) -> None:
    _, metadata = load_tensors(copy / WEIGHTS)
    rewrite(copy / WEIGHTS, {}, config=metadata["config"] | {"colour": "red"})
    with pytest.raises(UnknownNameError, match="colour"):
        Translator.load(copy)
    rewrite(copy / WEIGHTS, {}, family="vra", config=metadata["config"])
    with pytest.raises(UnknownNameError, match="did you mean 'var'"):
        Translator.load(copy)


class Bomb:
    """What an attacker pickles."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_in_place_of_weights_is_refused_unopened(
    copy: Path, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    if writer == "pickle":
        (copy / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"weights": Bomb()}, copy / WEIGHTS)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        Translator.load(copy)
    assert not Path("exploded").exists()


def test_weights_of_another_program_are_refused(copy: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(1)}, copy / WEIGHTS)
    with pytest.raises(CheckpointError, match="does not say which family"):
        Translator.load(copy)


def test_the_settings_file_is_plain(small_translator: Path) -> None:
    stored = json.loads((small_translator / SETTINGS).read_text())
    assert stored["domains"] == stored["targets"] == ["noto", "fluent"]
    assert stored["translation"]["fusion"] == 0.5


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type == choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match=r"no device cuda:99: torch finds \d GPUs here; use --device cpu"):
        choose_device("cuda:99")
    for wrong in ("gpu", "cuda:x", ""):
        with pytest.raises(UnknownNameError, match="auto, cpu, cuda"):
            choose_device(wrong)
