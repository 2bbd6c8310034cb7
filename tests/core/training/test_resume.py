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
from torch import Tensor

from cyclevar.core.checkpoints import load_tensors
from cyclevar.core.config import PretrainConfig, TrainConfig
from cyclevar.core.settings import validate
from cyclevar.core.training.loop import StoppedError
from cyclevar.core.training.start import pretrain, train

pytestmark = pytest.mark.usefixtures("light")

SPEEDS = {"images_per_second", "data_wait", "memory_gb"}

Train = Callable[..., dict[str, Tensor]]


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


@pytest.fixture(params=["tokenizer", "backbone", "translator"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Train:
    """Trains in a folder of that name, until ``what`` happens at a step; gives the newest state."""
    kind = request.param
    config = request.getfixturevalue({"translator": "train_config"}.get(kind, f"{kind}_config"))
    section = {"tokenizer": "tokenizer.", "backbone": "transformer."}.get(kind, "")
    assert isinstance(config, TrainConfig | PretrainConfig)

    def run(name: str, at: int = 0, what: Callable[[], None] = power_cut, **loop: Any) -> dict[str, Tensor]:
        data = config.model_dump()
        here = data
        for part in section.split(".")[:-1]:
            here = here[part]
        here["loop"] |= loop
        torch.manual_seed(12345)  # what happened before must not matter
        out, display = tmp_path / name, Interrupt(at, what)
        if kind == "translator":
            train(validate(TrainConfig, data), out, resume=out.exists(), display=display, device="cpu")
        else:
            pretrain(validate(PretrainConfig, data), out, resume=out.exists(), display=display, device="cpu")
        return newest(out)

    return run


def newest(out: Path) -> dict[str, Tensor]:
    return load_tensors(sorted((out / "checkpoints").glob("*.safetensors"))[-1])[0]


def figures(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in SPEEDS} for line in lines]


def assert_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert different == []


def test_ten_steps_and_ten_more_are_twenty(run: Train, tmp_path: Path) -> None:
    """Stopped by a power cut in step 12, so resumed after step 10; and by a signal, so resumed after step 12."""
    whole = run("whole")
    with pytest.raises(RuntimeError, match="power cut"):
        run("cut", at=12)
    assert any(not torch.equal(value, whole[name]) for name, value in newest(tmp_path / "cut").items())
    assert_equal(run("cut"), whole)
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")
    with pytest.raises(StoppedError, match="after 12 of 20 steps"):
        run("stopped", at=11, what=terminate)
    assert_equal(run("stopped"), whole)
    assert figures(tmp_path / "stopped") == figures(tmp_path / "whole")
    for name in ("cut", "stopped"):
        again, once = (load_tensors(tmp_path / which / "model.safetensors")[0] for which in (name, "whole"))
        assert_equal(again, once)


@pytest.mark.parametrize("run", ["translator"], indirect=True)
def test_a_translator_resumes_in_every_stage(run: Train) -> None:
    whole = run("whole", save_every=1)
    for at in (3, 6, 9, 13, 16):  # within the warm-up, at its end, discriminators alone, their end, both sides
        with pytest.raises(RuntimeError, match="power cut"):
            run(f"cut{at}", at=at, save_every=1)
        assert_equal(run(f"cut{at}", save_every=1), whole)


@pytest.mark.parametrize("run", ["translator"], indirect=True)
def test_a_finished_run_can_be_prolonged(run: Train, tmp_path: Path) -> None:
    whole = run("whole")
    run("longer", steps=14)
    assert_equal(run("longer", steps=20), whole)


def test_looking_more_often_changes_nothing(run: Train) -> None:
    assert_equal(run("seldom"), run("often", log_every=3, validate_every=4, sample_every=3, save_every=7))
