"""A training that stopped and went on gives, bit for bit, what one that never stopped gives."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cyclevar.core.config.base import validate
from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.training.launch import pretrain, train
from cyclevar.core.training.loop import StoppedError
from cyclevar.core.weights.checkpoints import load_tensors

SPLITS = 3 if os.environ.get("CYCLEVAR_SLOW", "0") in ("", "0") else 25
"""Random ways to split a training that are tried."""

SPEEDS = {"images_per_second", "data_wait", "memory_gb"}


class Interrupt:
    """A display that calls ``what`` when a step is shown."""

    def __init__(self, at: int, what: Callable[[], None]) -> None:
        self.at, self.what = at, what

    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        if step == self.at:
            self.what()

    def note(self, text: str) -> None:
        pass


def power_cut() -> None:
    raise RuntimeError("power cut")


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Trainings:
    """Trainings of one kind, each in a folder of its own; ``whole`` is one that was never interrupted."""

    def __init__(self, config: TrainConfig | PretrainConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.section = "" if isinstance(config, TrainConfig) else config.section
        self.count = 0
        self.run("whole")

    def run(self, name: str, at: int = 0, what: Callable[[], None] = power_cut, **loop: Any) -> None:
        """Begin or go on in the folder ``name``, until ``what`` happens at a step; ``loop`` changes its settings."""
        data = self.config.model_dump()
        (data[self.section] if self.section else data)["loop"] |= loop
        torch.manual_seed(12345)  # what happened before must not matter
        out, display = self.folder / name, Interrupt(at, what)
        if isinstance(self.config, TrainConfig):
            train(validate(TrainConfig, data), out, resume=out.exists(), display=display, device="cpu")
        else:
            pretrain(validate(PretrainConfig, data), out, resume=out.exists(), display=display, device="cpu")

    def state(self, name: str) -> dict[str, Tensor]:
        """The newest state in the folder ``name``."""
        return load_tensors(sorted((self.folder / name / "checkpoints").glob("step-*.safetensors"))[-1])[0]

    def differences(self, name: str) -> list[str]:
        """Tensors of the last state that differ from those of the uninterrupted training."""
        one, whole = self.state(name), self.state("whole")
        shared = one.keys() & whole.keys()
        return sorted(one.keys() ^ whole.keys()) + [key for key in shared if not torch.equal(one[key], whole[key])]

    def model(self, name: str) -> dict[str, Tensor]:
        return load_tensors(self.folder / name / "model.safetensors")[0]

    def figures(self, name: str) -> list[dict[str, Any]]:
        """The metrics, but for the speeds."""
        lines = [json.loads(line) for line in (self.folder / name / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key not in SPEEDS} for line in lines]


@pytest.fixture(
    params=[
        "tokenizer",
        "backbone",
        "flexvar_tokenizer",
        "flexvar_backbone",
        "translator",
        "lora",
        "paper",
        "cyclegan",
    ],
    scope="module",
)
def trainings(
    request: pytest.FixtureRequest, light_module: None, tmp_path_factory: pytest.TempPathFactory
) -> Trainings:
    config = request.getfixturevalue({"translator": "train_config"}.get(request.param, f"{request.param}_config"))
    return Trainings(config, tmp_path_factory.mktemp(request.param))


def test_ten_steps_and_ten_more_are_twenty(trainings: Trainings) -> None:
    """Stopped by a power cut in step 12, so resumed after step 10; and by a signal, so resumed after step 12."""
    with pytest.raises(RuntimeError, match="power cut"):
        trainings.run("cut", at=12)
    assert trainings.differences("cut") != []
    trainings.run("cut")
    with pytest.raises(StoppedError, match="after 12 of 20 steps"):
        trainings.run("stopped", at=11, what=terminate)
    trainings.run("stopped")
    for name in ("cut", "stopped"):
        assert trainings.differences(name) == []
        assert trainings.figures(name) == trainings.figures("whole")
        whole = trainings.model("whole")
        assert all(torch.equal(value, whole[key]) for key, value in trainings.model(name).items())


def test_looking_more_often_changes_nothing(trainings: Trainings) -> None:
    trainings.run("often", log_every=3, validate_every=4, sample_every=3, save_every=7)
    assert trainings.differences("often") == []


@pytest.mark.parametrize("trainings", ["translator"], indirect=True)
@pytest.mark.parametrize("at", [3, 6, 16], ids=["warm-up", "between stages", "adversarial"])
def test_a_translator_resumes_in_every_stage(trainings: Trainings, at: int) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        trainings.run(f"cut{at}", at=at, save_every=1)
    trainings.run(f"cut{at}", save_every=1)
    assert trainings.differences(f"cut{at}") == []


@pytest.mark.parametrize("trainings", ["translator"], indirect=True)
def test_a_signal_in_a_validating_step_loses_nothing(trainings: Trainings) -> None:
    """Steps 14, 16 and 20 log, validate, sample and save; the best state is that of the uninterrupted training too."""
    often = {"validate_every": 2, "sample_every": 2, "save_every": 4}
    trainings.run("validated", **often)
    for at in (14, 16, 20):
        with pytest.raises(StoppedError, match=f"after {at} of 20 steps"):
            trainings.run("signalled", at=at - 1, what=terminate, **often)
    trainings.run("signalled", **often)
    assert trainings.differences("signalled") == []
    assert trainings.figures("signalled") == trainings.figures("validated")
    one, other = (
        load_tensors(trainings.folder / name / "checkpoints/best.safetensors") for name in ("signalled", "validated")
    )
    assert one[1] == other[1]
    assert [name for name in one[0].keys() | other[0].keys() if not torch.equal(one[0][name], other[0][name])] == []
    for name in ("model.safetensors", "best/model.safetensors"):
        mine, whole = (load_tensors(trainings.folder / run / name)[0] for run in ("signalled", "validated"))
        assert [key for key in whole if not torch.equal(mine[key], whole[key])] == []


@pytest.mark.parametrize("trainings", ["translator"], indirect=True)
def test_a_finished_training_can_be_prolonged(trainings: Trainings) -> None:
    trainings.run("longer", steps=14)
    trainings.run("longer", steps=20)
    assert trainings.differences("longer") == []


@pytest.fixture(scope="module")
def accumulating(light_module: None, train_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    """A translator's training whose updates learn from two batches each."""
    config = train_config.model_copy(update={"accumulate": 2, "batch_size": 1})
    return Trainings(config, tmp_path_factory.mktemp("accumulating"))


@settings(max_examples=SPLITS, deadline=None, derandomize=True)
@given(splits=st.dictionaries(st.integers(1, 19), st.sampled_from([power_cut, terminate]), min_size=1, max_size=4))
def test_any_split_is_the_whole(accumulating: Trainings, splits: dict[int, Callable[[], None]]) -> None:
    """Stopped after any steps, by power cuts and signals, under gradient accumulation."""
    accumulating.count += 1
    name = f"split-{accumulating.count}"
    for at, what in sorted(splits.items()):
        with pytest.raises((RuntimeError, StoppedError)):
            accumulating.run(name, at=at, what=what, save_every=1)
    accumulating.run(name, save_every=1)
    assert accumulating.differences(name) == []
    assert accumulating.figures(name) == accumulating.figures("whole")
