"""Translators are found by name or folder, and what is no translator is told apart from one that is not finished."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from cyclevar.core.errors import CheckpointError, UnknownNameError
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.weights import shipped
from cyclevar.core.weights.shipped import (
    SETTINGS,
    WEIGHTS,
    find_checkpoint,
    find_translator,
    shipped_translators,
    shipped_weights,
)


@pytest.fixture
def translators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped translators: ``noto-fluent``, ``horse-zebra`` and something unfinished."""
    folder = tmp_path / "translators"
    for name in ("noto-fluent", "horse-zebra", "unfinished"):
        (folder / name).mkdir(parents=True)
        (folder / name / WEIGHTS).touch()
        if name != "unfinished":
            (folder / name / SETTINGS).touch()
    monkeypatch.setattr(shipped, "TRANSLATORS", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def test_what_ships_is_listed(translators: Path) -> None:
    assert shipped_translators() == {name: translators / name for name in ("horse-zebra", "noto-fluent")}


def test_the_default_and_a_name(translators: Path) -> None:
    assert find_translator() == find_translator(None) == find_translator("noto-fluent") == translators / "noto-fluent"
    assert find_translator("horse-zebra") == translators / "horse-zebra"


def test_a_folder(translators: Path, small_translator: Path) -> None:
    assert find_translator(small_translator) == small_translator
    assert find_translator(str(small_translator)) == small_translator
    shutil.copytree(small_translator, "noto-fluent")
    assert find_translator("noto-fluent") == translators / "noto-fluent"
    assert find_translator("./noto-fluent") == Path("noto-fluent")


def test_an_unknown_name_offers_the_nearest(translators: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"named 'noto-flunt'; .*one of horse-zebra, noto-fluent; did you mean"):
        find_translator("noto-flunt")
    with pytest.raises(UnknownNameError, match="runs/none"):
        find_translator("runs/none")


def test_a_run_that_has_not_finished(translators: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(CheckpointError, match=r"run in .* has not finished: it holds checkpoints.*--resume auto"):
        find_translator(tmp_path / "run")
    (tmp_path / "run" / WEIGHTS).touch()
    with pytest.raises(CheckpointError, match=r"was a pre-training.*cyclevar train --weights .*run/model.safetensors"):
        find_translator(tmp_path / "run")
    (tmp_path / "run" / SETTINGS).touch()
    assert find_translator(tmp_path / "run") == tmp_path / "run"


def test_what_is_no_translator(translators: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks translator.json and model.safetensors"):
        find_translator(tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        find_translator(translators / "noto-fluent" / WEIGHTS)
    (tmp_path / SETTINGS).touch()
    with pytest.raises(CheckpointError, match=r"it lacks model.safetensors"):
        find_translator(tmp_path)


def test_where_nothing_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "TRANSLATORS", tmp_path / "none")
    assert shipped_translators() == {}
    with pytest.raises(UnknownNameError, match="none is registered"):
        find_translator()


@pytest.mark.parametrize("family", ["var", "infinity", "flexvar"])
def test_weights_of_a_preset(family: str) -> None:
    assert shipped_weights(family, "no-such-preset") is None
    found = shipped_weights(family, "tiny")
    assert found is not None
    assert found.stat().st_size <= 12e6


@pytest.mark.parametrize("name", ["noto-fluent", "noto-fluent-infinity", "noto-fluent-flexvar"])
def test_translators_that_ship(name: str) -> None:
    translator = Translator.load(find_translator(name))
    images = torch.rand(1, 3, *translator.model.image_size) * 2 - 1
    fluent, noto = translator(images, "fluent"), translator(images, "noto")
    assert fluent.shape == images.shape
    assert (fluent - noto).abs().mean() > 0.01


def test_the_best_and_the_last_of_a_run(small_translator: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_translator, run)
    assert find_checkpoint(run, "last") == run
    with pytest.raises(CheckpointError, match=r"no translator of a best step.*--checkpoint last"):
        find_checkpoint(run, "best")
    shutil.copytree(small_translator, run / "best")
    assert find_checkpoint(run, "best") == run / "best"
    (run / "best" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors"):
        find_checkpoint(run, "best")
    with pytest.raises(UnknownNameError, match="did you mean 'best'"):
        find_checkpoint(run, "bets")
