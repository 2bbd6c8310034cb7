"""The list of models, and opening one by name or by files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.models.catalog import list_models, measure, open_model
from cyclevar.core.models.model import Model, build
from cyclevar.core.weights.hub import FOLDERS
from cyclevar.core.weights.published import family_config, find_weights, published_files
from cyclevar.core.weights.shipped import shipped_weights

FAMILIES = get_manager().registry.names("backbone")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder in which published files may lie, empty."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(FOLDERS, str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def same(one: Model, other: Model) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_down_is_measured(family: str) -> None:
    config = family_config(family)
    assert set(config.measures()) <= set(config.presets())
    for preset, written in config.measures().items():
        assert measure(family, preset) == written, preset


@pytest.mark.parametrize("family", FAMILIES)
def test_published_files_belong_to_presets(family: str) -> None:
    config = family_config(family)
    names = [file.name for file in config.published()]
    assert len(set(names)) == len(names)
    for file in config.published():
        assert file.part in ("tokenizer", "backbone")
        assert set(file.presets) <= set(config.presets())
        assert file.licence
        assert file.sha256 is None or len(file.sha256) == 64


@pytest.mark.parametrize("family", FAMILIES)
def test_named_schedules_can_be_read(family: str) -> None:
    config = family_config(family)
    for name in config.schedules():
        assert len(config.parse_schedule(name)) > 1
    for preset in config.presets().values():
        schedule = preset.parse_schedule(preset.schedule)
        assert preset.nearest_schedule(schedule.full).full == schedule.full


def test_the_list(folder: Path) -> None:
    models = {model.name: model for model in list_models()}
    tiny, d16 = models["var/tiny"], models["var/d16"]
    assert (tiny.size, tiny.conditions, tiny.ready) == ((64, 64), "noto, fluent", True)
    assert tiny.shipped == shipped_weights("var", "tiny")
    assert (d16.size, d16.conditions, d16.shipped, d16.ready) == ((256, 256), "class 0 to 999", None, False)
    assert [file.name for file in d16.files] == ["vae_ch160v4096z32.pth", "var_d16.pth"]
    for file in d16.files:
        (folder / file.name).touch()
    ready = {model.name for model in list_models() if model.ready and model.family == "var"}
    assert ready == {"var/tiny", "var/d16"}


def test_names_of_published_files(folder: Path) -> None:
    assert [file.name for file in published_files("var/d30")] == ["vae_ch160v4096z32.pth", "var_d30.pth"]
    assert [file.name for file in published_files("var_d30.pth")] == ["var_d30.pth"]
    with pytest.raises(UnknownNameError, match=r"did you mean 'var_d30.pth'"):
        published_files("var_d30.pht")
    with pytest.raises(CheckpointError, match=r"not on this disk.*`cyclevar models fetch var_d30.pth` gets it"):
        find_weights("var_d30.pth")
    (folder / "var_d30.pth").touch()
    assert find_weights("var_d30.pth") == folder / "var_d30.pth"
    assert find_weights("mine.pth") == Path("mine.pth")
    with pytest.raises(ConfigError, match="var/d30 is several files; expected vae_"):
        find_weights("var/d30")


def test_a_file_of_ones_own_goes_before_the_published_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "var_d30.pth").touch()
    (tmp_path / "var_d30.pth").touch()
    monkeypatch.chdir(tmp_path)
    assert find_weights("var_d30.pth") == Path("var_d30.pth")


def test_what_ships_is_opened(model: Model, tmp_path: Path) -> None:
    opened = open_model()
    assert opened.config.sampling == family_config("var").presets()["tiny"].sampling
    path = shipped_weights("var", "tiny")
    assert path is not None
    assert same(opened, open_model(weights=path))
    assert open_model(weights="noto-fluent").family == "var"
    model.save(tmp_path / "run" / "model.safetensors")
    for weights in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        assert same(open_model(weights=weights), model)


def test_published_weights_are_opened(
    model: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a preset as small as the test's model."""
    config = type(model.config)
    monkeypatch.setattr(config, "presets", classmethod(lambda cls: {"d16": model.config}))
    parts = model.export_official()
    tokenizer, backbone = folder / "vae_ch160v4096z32.pth", folder / "var_d16.pth"
    torch.save(parts["tokenizer"], tokenizer)
    torch.save(parts["backbone"], backbone)
    assert same(open_model(weights="var/d16"), model)
    assert same(open_model("var", "d16"), model)
    assert same(open_model("var", "d16", weights="var_d16.pth", tokenizer_weights="vae_ch160v4096z32.pth"), model)
    save_file({name: part.contiguous() for name, part in parts["backbone"].items()}, tmp_path / "b.safetensors")
    given = {"weights": tmp_path / "b.safetensors", "tokenizer_weights": tokenizer}
    assert same(open_model("var", "d16", **given), model)
    with pytest.raises(CheckpointError, match="does not fit"):
        open_model("var", "d16", **given, changes={"backbone": {"depth": 3}})


def test_what_contradicts(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    torch.save({}, tmp_path / "mine.pth")
    wrong = [
        ({"preset": "d17"}, "no preset of var named 'd17'"),
        ({"family": "vra"}, "did you mean 'var'"),
        ({"preset": "d16"}, "vae_ch160v4096z32.pth is not on this disk"),
        ({"tokenizer_weights": "x.pth"}, "published weights are given for one part only"),
        ({"weights": "var_d16.pth"}, "var_d16.pth is a backbone alone"),
        ({"weights": "absent"}, "absent is not a file"),
        ({"weights": tmp_path / "mine.pth"}, "no model file of cyclevar; .*give --tokenizer-weights FILE and"),
        ({"weights": tmp_path / "model.safetensors", "changes": {"backbone": {}}}, "which brings its own"),
    ]
    for arguments, problem in wrong:
        with pytest.raises((ConfigError, CheckpointError), match=problem):
            open_model(**arguments)  # type: ignore[arg-type]


def test_measuring_needs_no_memory() -> None:
    large = measure("var", "d36")
    assert large.backbone > 2e9
    assert build("var", "d36", initialize=False).device.type == "meta"
