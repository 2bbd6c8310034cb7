"""Which setting wins, and which run goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.training.resolve import prepare


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(path: Path, config: TrainConfig | PretrainConfig, *, age: int = 0, checkpoint: bool = True) -> Path:
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    if checkpoint:
        state = path / "checkpoints" / "step-00000010.safetensors"
        state.touch()
        os.utime(state, (1_000_000 - age, 1_000_000 - age))
    return path


def test_later_settings_win() -> None:
    file = Path("settings.yaml")
    file.write_text("loop: {steps: 1, log_every: 1, keep: 1}\nloss: {gan: 0.1, cycle: 0.1}\nseed: 1\n")
    options = {"loop.steps": 2, "loop.log_every": 2, "loss.cycle": 0.2, "batch_size": None}
    config = prepare(TrainConfig, options, file=file, overrides=["loop.steps=3", "loss.identity=0.3"]).config
    assert (config.loop.steps, config.loop.log_every, config.loop.keep) == (3, 2, 1)
    assert (config.loss.gan, config.loss.cycle, config.loss.identity) == (0.1, 0.2, 0.3)
    assert (config.seed, config.batch_size) == (1, TrainConfig().batch_size)


def test_a_section_that_is_given_in_part_keeps_the_rest_of_its_defaults() -> None:
    config = prepare(PretrainConfig, {"data.size": 64}, overrides=["tokenizer.optimizer.warmup=7"]).config
    usual = PretrainConfig()
    assert config.data == usual.data.model_copy(update={"size": 64})
    assert config.tokenizer.optimizer == usual.tokenizer.optimizer.model_copy(update={"warmup": 7})
    assert config.transformer == usual.transformer


@pytest.mark.parametrize(
    ("options", "overrides", "message"),
    [
        ({"backbone": "vra"}, [], "no backbone named 'vra'.*did you mean 'var'"),
        ({"preset": "tny"}, [], "no preset of var named 'tny'.*did you mean 'tiny'"),
        ({"discriminator.name": "patchgn"}, [], "no discriminator named 'patchgn'.*did you mean 'patchgan'"),
        ({}, ["discriminator.settings.widht=3"], "no setting named 'widht'.*did you mean 'width'"),
        ({}, ["losss.gan=3"], "no setting named 'losss'.*did you mean 'loss'"),
        ({"loop.steps": 0}, [], "loop.steps is 0; expected greater than 0"),
        ({}, ["loss.gan=0"], "expected a loss in every step: gan, or cycle or identity every step"),
    ],
)
def test_mistakes_are_found_at_once(options: dict[str, Any], overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(TrainConfig, options, overrides=overrides)


def test_a_tokenizer_must_come_to_its_code_book() -> None:
    with pytest.raises(ConfigError, match=r"expected autoencoder_steps \(1000\) below loop.steps \(500\) and"):
        prepare(PretrainConfig, {"tokenizer.loop.steps": 500})
    with pytest.raises(UnknownNameError, match="discriminator"):
        prepare(PretrainConfig, {"tokenizer.discriminator": "none"})
    with pytest.raises(ConfigError, match="batch_size is 3; expected a multiple of 2"):
        prepare(PretrainConfig, {"tokenizer.batch_size": 3})


def test_a_finish_alone_needs_a_trained_tokenizer() -> None:
    alone = {"tokenizer.autoencoder_steps": 0, "tokenizer.finish_from": 0}
    with pytest.raises(
        ConfigError, match=r"expected weights with a trained tokenizer, since tokenizer.finish_from is 0"
    ):
        prepare(PretrainConfig, alone)
    assert prepare(PretrainConfig, alone | {"weights": "run"}).config.tokenizer.finish_from == 0
    with pytest.raises(ConfigError, match=r"expected either weights or tokenizer.autoencoder_from"):
        prepare(PretrainConfig, {"tokenizer.autoencoder_from": "var", "weights": "run"})


def test_runs_are_named_by_what_they_are_and_counted(here: Path) -> None:
    def name(kind: type[Any], **options: Any) -> str:
        return prepare(kind, {key.replace("__", "."): value for key, value in options.items()}).out.as_posix()

    assert name(TrainConfig) == "runs/var-tiny-emoji-1"
    assert name(PretrainConfig, stage="backbone") == "runs/var-tiny-emoji-backbone-1"
    assert name(TrainConfig, data__source="my photos/", preset="d16") == "runs/var-d16-my_photos-1"
    assert name(TrainConfig, data__source="x/horse", data__other="y/zebra") == "runs/var-tiny-horse-zebra-1"
    for number in (1, 9, 10):
        (here / f"runs/var-tiny-emoji-{number}").mkdir(parents=True)
    assert name(TrainConfig) == "runs/var-tiny-emoji-11"
    assert name(PretrainConfig) == "runs/var-tiny-emoji-tokenizer-1"


def test_a_folder_can_be_chosen() -> None:
    prepared = prepare(TrainConfig, {}, out=Path("mine"))
    assert (prepared.out, prepared.resume) == (Path("mine"), False)


def test_the_newest_run_of_the_kind_goes_on_with_its_own_settings() -> None:
    runs = Path("runs")
    make_run(runs / "older", TrainConfig(seed=1), age=20)
    make_run(runs / "newer", TrainConfig(seed=2), age=10)
    make_run(runs / "unsaved", TrainConfig(seed=3), checkpoint=False)
    make_run(runs / "larger", TrainConfig(preset="d16"))
    make_run(runs / "tokenizer", PretrainConfig())
    (make_run(runs / "broken", TrainConfig()) / "config.yaml").write_text("{")
    found = prepare(TrainConfig, {}, resume="auto")
    assert (found.out, found.resume, found.config.seed) == (runs / "newer", True, 2)
    assert prepare(TrainConfig, {"preset": "d16"}, resume="auto").out == runs / "larger"
    assert prepare(PretrainConfig, {}, resume="auto").out == runs / "tokenizer"


def test_pictures_that_are_named_must_be_those_of_the_run() -> None:
    runs = Path("runs")
    make_run(runs / "emoji", TrainConfig())
    make_run(runs / "photos", prepare(TrainConfig, {"data.source": "photos"}).config, age=10)
    assert prepare(TrainConfig, {}, resume="auto").out == runs / "emoji"
    assert prepare(TrainConfig, {"data.source": "photos"}, resume="auto").out == runs / "photos"


def test_where_nothing_can_go_on_a_new_run_begins() -> None:
    prepared = prepare(PretrainConfig, {"stage": "backbone"}, resume="auto")
    assert (prepared.out, prepared.resume) == (Path("runs/var-tiny-emoji-backbone-1"), False)
    assert prepare(TrainConfig, {}, out=Path("mine"), resume="auto") == prepare(TrainConfig, {}, out=Path("mine"))


def test_a_run_can_be_named() -> None:
    run = make_run(Path("mine"), TrainConfig(seed=5), checkpoint=False)
    for named in (
        prepare(TrainConfig, {}, resume="mine"),
        prepare(TrainConfig, {}, resume="auto", out=run),
        prepare(TrainConfig, {}, resume="mine/", out=run.resolve()),
    ):
        assert (named.out.resolve(), named.resume, named.config.seed) == (run.resolve(), True, 5)
    with pytest.raises(ConfigError, match="--resume names mine but --out names yours"):
        prepare(TrainConfig, {}, resume="mine", out=Path("yours"))
    with pytest.raises(ConfigError, match="there is no run in nowhere"):
        prepare(TrainConfig, {}, resume="nowhere")


def test_settings_given_again_win_over_those_of_the_run() -> None:
    make_run(Path("mine"), TrainConfig(seed=5, batch_size=7))
    config = prepare(TrainConfig, {"seed": 6}, resume="mine").config
    assert (config.seed, config.batch_size) == (6, 7)


def test_a_recipe_lies_under_what_is_given(tmp_path: Path) -> None:
    def settle(**options: Any) -> TrainConfig:
        return prepare(TrainConfig, options, root=tmp_path).config

    paper = settle(recipe="paper")
    assert (paper.loss.gan, paper.loss.cycle, paper.loss.identity) == (0.5, 1.0, 1.0)
    assert paper.loss.terms("cycle") == {"l1": 1.0, "perceptual": 10.0}
    assert paper.loss.terms("identity") == {"l1": 1.0, "perceptual": 1.0}
    assert (paper.loss.cycle_every, paper.loss.identity_every) == (1, 1)
    assert paper == TrainConfig(recipe="paper")
    changed = settle(recipe="paper", **{"loss.gan": 2.0})
    assert changed.loss == paper.loss.model_copy(update={"gan": 2.0})
    assert prepare(TrainConfig, {}, overrides=["recipe=paper"], root=tmp_path).config == paper
    assert settle() == TrainConfig()
    with pytest.raises(ConfigError, match="recipe is 'papre'; expected 'default' or 'paper'"):
        settle(recipe="papre")


def test_losses_are_known_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no loss named 'color'.*did you mean 'colour'"):
        prepare(TrainConfig, {}, overrides=["loss.cycle_terms={color: 1}"], root=tmp_path)
