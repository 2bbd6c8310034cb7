"""From settings to a trained model: what is refused, what is told, what lies in the folder at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import cyclevar
from cyclevar.core.config.base import validate
from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.data import batches
from cyclevar.core.data import images as reading
from cyclevar.core.data.datasets import open_dataset
from cyclevar.core.errors import CheckpointError, ConfigError, CyclevarError, DataError, UnknownNameError
from cyclevar.core.models import catalog as models
from cyclevar.core.models.model import build, load_model
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.training import launch as start
from cyclevar.core.training.launch import pretrain, start_model, train
from cyclevar.core.training.tasks.translator import TranslatorTask
from cyclevar.core.weights.checkpoints import digest


def change(config: Any, **changes: Any) -> Any:
    """``config`` with dotted settings (two underscores for a dot) changed."""
    data = config.model_dump()
    for dotted, value in changes.items():
        here = data
        *sections, last = dotted.split("__")
        for section in sections:
            here = here[section]
        here[last] = value
    return validate(type(config), data)


def test_from_nothing_to_a_translator(
    tokenizer_config: PretrainConfig,
    backbone_config: PretrainConfig,
    train_config: TrainConfig,
    display: Any,
    tmp_path: Path,
) -> None:
    """Tokenizer, backbone and translator, each from the run folder of the one before."""
    short = {"tokenizer__loop__steps": 6, "tokenizer__finish_from": 6}
    tokenizer = pretrain(change(tokenizer_config, **short), tmp_path / "tokenizer", resume=False, display=display)
    config = change(backbone_config, weights=str(tmp_path / "tokenizer"), transformer__loop__steps=2)
    backbone = pretrain(config, tmp_path / "backbone", resume=False, display=display)
    assert digest(load_model(backbone).tokenizer) == digest(load_model(tokenizer).tokenizer)
    config = change(train_config, weights=str(tmp_path / "backbone"), loop__steps=6)
    out = train(config, tmp_path / "translator", resume=False, display=display)

    translator = Translator.load(out)
    assert translator.domains == ("discs", "squares")
    assert translator(torch.zeros(2, 3, 16, 16), "squares").shape == (2, 3, 16, 16)
    assert digest(translator.model.tokenizer) == digest(load_model(tokenizer).tokenizer)
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "facts.yaml",
        "metrics.jsonl",
        "model.safetensors",
        "report.html",
        "samples",
        "starts.jsonl",
        "translator.json",
    ]
    assert validate(TrainConfig, yaml.safe_load((out / "config.yaml").read_text())) == config
    facts = yaml.safe_load((out / "facts.yaml").read_text())
    assert facts["perceptual_distance"].startswith(("efficientnet_lite0 ", "lpips_"))
    assert facts["feature_net"].startswith("efficientnet_lite0 ")
    assert facts["tokenizer"] == digest(translator.model.tokenizer)
    assert any(note.startswith("perceptual distance: ") for note in display.notes)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 6]


@pytest.mark.usefixtures("light")
def test_the_model_that_is_saved_is_the_average(
    train_config: TrainConfig, weights: Path, display: Any, tmp_path: Path
) -> None:
    from cyclevar.core.weights.checkpoints import load_tensors

    out = train(change(train_config, loop__steps=3), tmp_path / "run", resume=False, display=display)
    state, _ = load_tensors(out / "checkpoints" / "step-00000003.safetensors")
    saved = load_model(out / "model.safetensors").backbone.state_dict()
    assert all(torch.equal(value, state[f"ema/module.{name}"]) for name, value in saved.items())
    assert any(not torch.equal(value, state[f"backbone/{name}"]) for name, value in saved.items())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data__source": "nowhere"}, DataError, "the folder nowhere does not exist"),
        ({"data__size": 32}, ConfigError, "data.size is 32; expected 16"),
        ({"model": {"schedule": "1-2"}}, ConfigError, r"settings under model \(schedule\) are given beside"),
        ({"weights": "nowhere"}, CheckpointError, "nowhere is not a file"),
        ({"targets": (7, "discs")}, ConfigError, "class 7 is out of range; expected 0 to 1"),
        ({"discriminator__settings": {"levels": 9}}, ConfigError, "levels is 9"),
        ({"loss__perceptual_distance": "ssim"}, UnknownNameError, "no loss named 'ssim'"),
    ],
)
def test_a_mistake_leaves_no_folder_behind(
    train_config: TrainConfig,
    display: Any,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[CyclevarError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        train(change(train_config, **changes), tmp_path / "run", resume=False, display=display)
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_is_refused_before_any_work(
    train_config: TrainConfig, display: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "make_accelerator", lambda *settings: pytest.fail("work began"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(train_config.model_dump(mode="json")))
    with pytest.raises(ConfigError, match="already holds a run"):
        train(train_config, tmp_path, resume=False, display=display)
    with pytest.raises(ConfigError, match="batch_size was 2, is 3"):
        train(change(train_config, batch_size=3), tmp_path, resume=True, display=display)


@pytest.mark.usefixtures("light")
def test_a_refused_change_leaves_the_run_as_it_was(train_config: TrainConfig, display: Any, tmp_path: Path) -> None:
    """The state does not fit the changed settings, which is found before anything is written."""
    run, short = tmp_path / "run", change(train_config, loop__steps=3)
    train(short, run, resume=False, display=display)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix != ".html"}
    other = change(train_config, loop__steps=4, discriminator__settings={"width": 16})
    with pytest.raises(CheckpointError, match=r"does not fit this run in its part 'discriminators' \(.* is float32 \["):
        train(other, run, resume=True, display=display, allowed=["discriminator"])
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix != ".html"}
    assert after == before
    train(change(train_config, loop__steps=4), run, resume=True, display=display)
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()][-1] == 4


def copy_some(pictures: Path, few: Path, count: int) -> Path:
    for kind in ("discs", "squares"):
        (few / kind).mkdir(parents=True)
        for i in range(count):
            shutil.copy(pictures / kind / f"{i:02d}.png", few / kind)
    return few


def test_few_images_are_refused_before_the_model_is_loaded(
    train_config: TrainConfig,
    backbone_config: PretrainConfig,
    pictures: Path,
    display: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = copy_some(pictures, tmp_path / "few", 12)
    for loads in ("start_model", "_pretraining_model"):
        monkeypatch.setattr(start, loads, lambda *_: pytest.fail("the model was loaded"))
    found = r"few has too few images: 12 of discs and 12 of squares to train on, no validation part"
    with pytest.raises(DataError, match=found + r".*expected 16 or more of each domain.*data\.validation_min=2"):
        train(change(train_config, data__source=str(few)), tmp_path / "run", resume=False, display=display)
    with pytest.raises(DataError, match=found):
        pretrain(change(backbone_config, data__source=str(few)), tmp_path / "run", resume=False, display=display)


@pytest.mark.usefixtures("light")
def test_small_data_train_with_a_smaller_validation(
    backbone_config: PretrainConfig, pictures: Path, display: Any, tmp_path: Path
) -> None:
    few = copy_some(pictures, tmp_path / "few", 12)
    config = change(backbone_config, data__source=str(few), data__validation_min=3, transformer__loop__steps=1)
    assert start.open_training_data(config.data).counts() == (
        "9 of discs and 9 of squares to train on, 3 of discs and 3 of squares to validate with"
    )
    assert pretrain(config, tmp_path / "run", resume=False, display=display).is_file()


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("names", [("0", "1"), ("2023", "2024"), ("007", "008")])
def test_folders_called_by_numbers_are_domains(
    train_config: TrainConfig, pictures: Path, display: Any, tmp_path: Path, names: tuple[str, str]
) -> None:
    data = tmp_path / "data"
    for kind, name in zip(("discs", "squares"), names, strict=True):
        shutil.copytree(pictures / kind, data / name)
    config = change(train_config, data__source=str(data), loop__steps=1)
    out = train(config, tmp_path / "run", resume=False, display=display)
    assert {f"{name} is new to the model" for name in names} <= set(display.notes)
    translator = Translator.load(out)
    assert (translator.domains, translator.targets) == (names, names)
    own = translator.model.backbone
    assert own.names == ("discs", "squares", *names)
    row = own.condition([names[0]]).vector
    assert torch.equal(row[0], own.domain_embedding[0])
    assert not torch.equal(row, own.condition([0]).vector)


def with_prompts(pictures: Path, folder: Path) -> Path:
    for domain, kind in (("A", "discs"), ("B", "squares")):
        shutil.copytree(pictures / kind, folder / f"train_{domain}")
    (folder / "fixed_prompt_a.txt").write_text("a coloured disc\n")
    (folder / "fixed_prompt_b.txt").write_text("a coloured square\n")
    return folder


@pytest.mark.usefixtures("light")
def test_prompts_of_the_data_are_said_where_no_text_is_read(
    train_config: TrainConfig, pictures: Path, display: Any, tmp_path: Path
) -> None:
    config = change(train_config, data__source=str(with_prompts(pictures, tmp_path / "data")), loop__steps=1)
    assert Translator.load(train(config, tmp_path / "run", resume=False, display=display)).targets == ("A", "B")
    assert any("are not used: var reads no text" in note for note in display.notes)


def test_prompts_of_the_data_are_what_a_text_model_is_trained_on(pictures: Path, display: Any, tmp_path: Path) -> None:
    dataset = open_dataset(with_prompts(pictures, tmp_path / "data"))
    text = cyclevar.build("infinity", "tiny")
    assert start._default_targets(dataset, text, display) == ("a coloured disc", "a coloured square")
    assert display.notes == ["prompts of the data: 'a coloured disc' and 'a coloured square'"]
    assert start._default_targets(open_dataset(pictures), text, display) == ("discs", "squares")


@pytest.mark.usefixtures("light")
def test_changed_pictures_are_refused_on_resuming(
    backbone_config: PretrainConfig, pictures: Path, display: Any, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(pictures, mine)
    config = change(backbone_config, data__source=str(mine), transformer__loop__steps=1)
    pretrain(config, tmp_path / "run", resume=False, display=display)
    pretrain(config, tmp_path / "run", resume=True, display=display)
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    (mine / "discs" / "03.png").unlink()
    with pytest.raises(ConfigError, match=r"circumstances differ from those of the run in .*: data was 'mine "):
        pretrain(config, tmp_path / "run", resume=True, display=display)
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before


def test_another_tokenizer_is_refused_on_resuming(
    backbone_config: PretrainConfig, weights: Path, display: Any, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.safetensors"
    shutil.copy(weights, mine)
    config = change(backbone_config, weights=str(mine), transformer__loop__steps=1)
    pretrain(config, tmp_path / "run", resume=False, display=display)
    model = load_model(mine)
    next(model.tokenizer.parameters()).data += 1
    model.save(mine)
    with pytest.raises(ConfigError, match=r"circumstances differ from those of the run in .*: tokenizer was "):
        pretrain(config, tmp_path / "run", resume=True, display=display)


def test_bad_pictures_are_left_out_and_told_at_the_end(
    backbone_config: PretrainConfig,
    pictures: Path,
    display: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(pictures, mine)
    for i in range(10, 20):
        (mine / "discs" / f"{i}.png").write_bytes(b"no picture")
    (mine / "squares" / "07.png").write_bytes((mine / "squares" / "07.png").read_bytes()[:60])
    config = change(backbone_config, data__source=str(mine), data__most_bad=0.5, transformer__loop__steps=25)
    pretrain(config, tmp_path / "run", resume=False, display=display)
    assert display.notes[-1] == (
        "11 pictures could not be read and were left out: discs/10.png, discs/11.png, discs/12.png, discs/13.png, "
        "discs/14.png, discs/15.png, discs/16.png, discs/17.png and 3 more"
    )
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == len(set(warnings)) == 11
    listed = (tmp_path / "run" / "bad-pictures.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == [*(f"discs/{i}.png" for i in range(10, 20)), "squares/07.png"]
    assert all("; skipped" in warning for warning in warnings)


def test_hostile_pictures_are_survived_and_named_once(
    backbone_config: PretrainConfig,
    pictures: Path,
    hostile: tuple[Path, dict[str, str]],
    display: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every kind of bad file, one that may not be read, and one that goes while the training runs."""
    folder, expected = hostile
    bad = {name for name, reason in expected.items() if reason} | {"forbidden.png", "removed.png"}
    for path in sorted((pictures / "discs").iterdir()):
        shutil.copy(path, folder)
    for name in ("forbidden.png", "removed.png"):
        shutil.copy(pictures / "discs" / "00.png", folder / name)
    read = reading.read_file

    def read_file(path: Path) -> bytes:
        if path.name == "forbidden.png":  # root may read everything
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(reading, "read_file", read_file)
    monkeypatch.setattr(batches, "CACHE_BYTES", 0)  # so that every epoch opens every file

    show = display.show

    def remove(step: int, steps: int, values: Mapping[str, Any]) -> None:
        show(step, steps, values)
        if step == 31:  # the first epoch of the 57 pictures is over
            (folder / "removed.png").unlink()

    monkeypatch.setattr(display, "show", remove)
    changes = {"data__source": str(folder), "data__other": str(pictures / "squares"), "data__most_bad": 0.3}
    config = change(backbone_config, **changes, transformer__loop__steps=62)
    pretrain(config, tmp_path / "run", resume=False, display=display)
    assert display.values[-1]["step"] == 62
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == len(set(warnings)) == len(bad) == 8
    assert all(sum(f"/{name}:" in warning for warning in warnings) == 1 for name in bad)
    listed = dict(line.split("\t") for line in (tmp_path / "run" / "bad-pictures.txt").read_text().splitlines())
    assert listed.keys() == {f"hostile/{name}" for name in bad}
    assert "Permission denied" in listed["hostile/forbidden.png"]
    assert display.notes[-1].startswith("8 pictures could not be read and were left out: hostile/bomb.png, ")

    train_part = open_dataset(folder, other=pictures / "squares").train[0]
    for name in [name for name in train_part.names if name[0].isdigit()][:20]:
        (folder / name).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"cannot be read \(.*at most 30% bad ones"):
        pretrain(config, tmp_path / "another", resume=False, display=display)


@pytest.mark.usefixtures("light")
def test_new_domains_are_added(train_config: TrainConfig, display: Any, tmp_path: Path) -> None:
    config = change(train_config, targets=(0, "stars"), loop__steps=1)
    out = train(config, tmp_path / "run", resume=False, display=display)
    assert "stars is new to the model" in display.notes
    translator = Translator.load(out)
    assert translator.model.backbone.names == ("discs", "squares", "stars")
    assert (translator.domains, translator.targets) == (("discs", "squares"), (0, "stars"))
    assert translator(torch.zeros(1, 3, 16, 16), "squares").shape == (1, 3, 16, 16)


def test_a_backbone_needs_a_tokenizer(display: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer to learn from; expected --weights .*--stage tokenizer first"):
        pretrain(PretrainConfig(stage="backbone"), tmp_path / "run", resume=False, display=display)
    assert list(tmp_path.iterdir()) == []


def smaller_wider_codes(config: PretrainConfig) -> PretrainConfig:
    """Another code book and latent, the same autoencoder otherwise."""
    model = config.model | {"tokenizer": config.model["tokenizer"] | {"codebook_size": 12, "channels": 16}}
    return change(config, model=model, tokenizer__autoencoder_steps=0, tokenizer__finish_from=30)


def test_a_tokenizer_may_start_from_another_autoencoder(
    tokenizer_config: PretrainConfig, weights: Path, display: Any, tmp_path: Path
) -> None:
    config = change(smaller_wider_codes(tokenizer_config), tokenizer__autoencoder_from=str(weights))
    model = start._pretraining_model(config)
    fresh = {name: tensor.clone() for name, tensor in model.tokenizer.state_dict().items()}
    start._copy_autoencoder(model, config, display)
    source = load_model(weights).tokenizer.state_dict()
    left = [name for name, tensor in model.tokenizer.state_dict().items() if not torch.equal(tensor, source[name])]
    boundary = ["encoder.out", "decoder.stem", "before_quantizer", "after_quantizer"]
    new = [name for name in left if name.startswith(tuple(boundary))]
    assert sorted(name for name in left if name not in new) == sorted(
        name for name in fresh if name.startswith(("quantizer.", "phi."))
    )
    assert all(torch.equal(model.tokenizer.state_dict()[name], fresh[name]) for name in left)
    [note] = display.notes
    total = len([name for name in fresh if name.startswith(start.AUTOENCODER)])
    assert note.startswith(
        f"{total - len(new)} of the {total} tensors of the autoencoder come from {weights}; new are "
    )
    config = change(config, tokenizer__loop__steps=2, tokenizer__finish_from=2)
    assert pretrain(config, tmp_path / "run", resume=False, display=display).is_file()


def test_an_autoencoder_that_does_not_fit(
    tokenizer_config: PretrainConfig, weights: Path, display: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tokenizer_config.model | {"tokenizer": tokenizer_config.model["tokenizer"] | {"width": 64, "channels": 4}}
    config = change(tokenizer_config, model=other, tokenizer__autoencoder_from=str(weights))
    model = start._pretraining_model(config)
    with pytest.raises(CheckpointError, match=r"only 1 tensors fit the \d+ of the autoencoder; expected a model with"):
        start._copy_autoencoder(model, config, display)
    monkeypatch.setattr(start, "shipped_weights", lambda family, preset: weights if preset == "tiny" else None)
    family = change(tokenizer_config, tokenizer__autoencoder_from="var")
    start._copy_autoencoder(start._pretraining_model(family), family, display)
    assert str(weights) in display.notes[0]
    with pytest.raises(ConfigError, match="no weights ship with var d16; expected a model file or a run folder"):
        start._copy_autoencoder(model, change(family, preset="d16"), display)


@pytest.mark.usefixtures("light")
def test_a_trained_tokenizer_may_be_finished_alone(
    tokenizer_config: PretrainConfig, weights: Path, display: Any, tmp_path: Path
) -> None:
    alone = {"autoencoder_steps": 0, "finish_from": 0, "adversarial_after": 1}
    stage = tokenizer_config.model_dump()["tokenizer"] | alone
    config = change(tokenizer_config, model={}, weights=str(weights), tokenizer=stage, tokenizer__loop__steps=3)
    finished = load_model(pretrain(config, tmp_path / "run", resume=False, display=display)).tokenizer.state_dict()
    moved = {
        name
        for name, tensor in load_model(weights).tokenizer.state_dict().items()
        if not torch.equal(tensor, finished[name])
    }
    assert moved
    assert all(name.startswith(("decoder.", "after_quantizer.")) for name in moved)


@pytest.mark.usefixtures("light")
def test_a_trained_code_book_is_trained_further(
    tokenizer_config: PretrainConfig, weights: Path, display: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = tokenizer_config.model_dump()["tokenizer"] | {"autoencoder_steps": 0}
    config = change(tokenizer_config, model={}, weights=str(weights), tokenizer=stage, tokenizer__loop__steps=1)
    monkeypatch.setattr("cyclevar.core.training.tasks.tokenizer.fit_codebook", lambda *more: pytest.fail("fitted anew"))
    config = change(config, tokenizer__finish_from=1)
    assert pretrain(config, tmp_path / "run", resume=False, display=display).is_file()


def test_what_a_training_starts_from(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert digest(start_model(TrainConfig(weights=str(weights)))) == digest(load_model(weights))
    shutil.copy(weights, tmp_path / "model.safetensors")
    assert digest(start_model(TrainConfig(weights=str(tmp_path)))) == digest(load_model(weights))

    monkeypatch.setattr(models, "shipped_weights", lambda family, preset: weights if preset == "tiny" else None)
    assert digest(start_model(TrainConfig())) == digest(load_model(weights))
    with pytest.raises(CheckpointError, match=r"vae_ch160v4096z32.pth is not on this disk.* fetch var/d16"):
        start_model(TrainConfig(preset="d16"))
    for settings in ({"tokenizer_weights": "vae.pth"}, {"backbone_weights": "var.pth"}):
        with pytest.raises(ConfigError, match="published weights are given for one part only"):
            start_model(TrainConfig(**settings))
    with pytest.raises(ConfigError, match="both weights and backbone_weights are given"):
        start_model(TrainConfig(weights="a", backbone_weights="b", tokenizer_weights="c"))


def test_published_files_can_be_started_from(tmp_path: Path, weights: Path) -> None:
    model = load_model(weights)
    for part, state in model.export_official().items():
        torch.save(state, tmp_path / f"{part}.pth")
    settings = {
        "tokenizer_weights": str(tmp_path / "tokenizer.pth"),
        "backbone_weights": str(tmp_path / "backbone.pth"),
        "model": model.config.model_dump(mode="json"),
    }
    assert digest(start_model(validate(TrainConfig, settings))) == digest(model)
    settings["weights"] = settings.pop("backbone_weights")
    assert digest(start_model(validate(TrainConfig, settings))) == digest(model)


def test_a_digest_depends_on_names_and_values() -> None:
    from torch import nn

    net = nn.Linear(2, 2)
    before = digest(net)
    assert len(before) == 16
    assert digest(nn.Sequential(net)) != before
    net.bias.data += 1e-6
    assert digest(net) != before


def test_a_family_must_match_its_weights(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=f"{weights} belongs to the backbone var; expected infinity"):
        start_model(TrainConfig(backbone="infinity", weights=str(weights)))


def test_a_plugin_may_change_the_settings(
    backbone_config: PretrainConfig, display: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = start.get_manager()
    fold = manager.fold

    def folded(hook: str, subject: Any, **others: Any) -> Any:
        return change(subject, seed=77) if hook == "cyclevar_configure" else fold(hook, subject, **others)

    monkeypatch.setattr(manager, "fold", folded)
    pretrain(change(backbone_config, transformer__loop__steps=1), tmp_path / "run", resume=False, display=display)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["seed"] == 77


def test_build_is_what_pretraining_begins_with() -> None:
    torch.manual_seed(3)
    wanted = digest(build("var", "tiny"))
    torch.manual_seed(3)
    assert digest(start._pretraining_model(PretrainConfig())) == wanted


@pytest.mark.usefixtures("light")
def test_a_domain_needs_a_name(train_config: TrainConfig, display: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a target is empty"):
        train(change(train_config, targets=("", "squares")), tmp_path / "run", resume=False, display=display)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("rank", [0, 2])
def test_the_best_step_is_a_translator_of_its_own(
    train_config: TrainConfig, weights: Path, display: Any, tmp_path: Path, rank: int
) -> None:
    config = change(train_config, weights=str(weights), loop__validate_every=1, lora__rank=rank)
    out = train(config, tmp_path / "run", resume=False, display=display)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    both = {line["step"]: [value for name, value in line.items() if "kid_rt" in name] for line in lines}
    scores = {number: sum(values) / 2 for number, values in both.items() if values}
    [note] = [note for note in display.notes if note.startswith("best in validation was step ")]
    step = int(note.split()[5].rstrip(":"))
    later = {number: score for number, score in scores.items() if number >= step}
    assert later[step] == min(later.values())
    last, best = Translator.load(out), Translator.load(out / "best")
    assert digest(last.model.tokenizer) == digest(best.model.tokenizer)
    assert (digest(last.model.translates) == digest(best.model.translates)) == (step == max(scores))


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(("at", "resume", "stays"), [(0, False, False), (6, False, True), (0, True, True)])
def test_a_new_run_without_memory_leaves_nothing(
    train_config: TrainConfig,
    display: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    resume: bool,
    stays: bool,
) -> None:
    out, update = tmp_path / "run", TranslatorTask.update

    def fail(self: TranslatorTask, step: int) -> Mapping[str, float]:
        if step >= at:
            raise RuntimeError("CUDA out of memory")
        return update(self, step)

    if resume:
        train(change(train_config, loop__steps=1), out, resume=False, display=display)
    monkeypatch.setattr(TranslatorTask, "update", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        train(train_config, out, resume=resume, display=display)
    assert out.exists() == stays
    if stays:
        assert list((out / "checkpoints").glob("step-*.safetensors"))
