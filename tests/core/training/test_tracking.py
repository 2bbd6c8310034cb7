"""Trackers get what the log gets, go on where a run goes on, and can fail without harm."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest

from cyclevar.core.config.base import validate
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.training.launch import train
from cyclevar.core.training.run_folder import RunFolder
from cyclevar.core.training.tracking import Tracker, open_tracker


class Fake:
    """A tracker of accelerate that remembers, and raises in one of its methods."""

    def __init__(self, fails_in: str = "") -> None:
        self.fails_in, self.calls = fails_in, list[Any]()

    def log(self, values: dict[str, Any], step: int) -> None:
        self.calls.append((step, values))
        self._maybe("log")

    def finish(self) -> None:
        self.calls.append("finish")
        self._maybe("finish")

    def _maybe(self, name: str) -> None:
        if name == self.fails_in:
            raise OSError("the service is down")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.begin(TrainConfig(), {})
    return folder


def lines(*steps: int) -> list[dict[str, Any]]:
    return [{"step": step, "loss": float(step)} for step in steps]


def test_a_tracker_gets_figures_by_step_and_is_closed() -> None:
    fake, begun = Fake(), list[int]()

    def make(step: int) -> Any:
        begun.append(step)
        return fake

    tracker = Tracker("fake", make)
    tracker.log(lines(1)[0])  # nothing is tracked before the start
    tracker.start(5)
    for line in lines(6, 8):
        tracker.log(line)
    tracker.finish()
    tracker.log(lines(9)[0])
    assert begun == [5]
    assert fake.calls == [(6, {"loss": 6.0}), (8, {"loss": 8.0}), "finish"]


@pytest.mark.parametrize(("fails_in", "calls"), [("start", 0), ("log", 1), ("finish", 4)])
def test_a_tracker_that_fails_is_one_warning(caplog: pytest.LogCaptureFixture, fails_in: str, calls: int) -> None:
    fake = Fake(fails_in)

    def make(step: int) -> Any:
        fake._maybe("start")
        return fake

    tracker = Tracker("fake", make)
    with caplog.at_level(logging.WARNING):
        tracker.start(0)
        for line in lines(1, 2, 3):
            tracker.log(line)
        tracker.finish()
    assert caplog.messages == ["tracker fake failed (OSError('the service is down')): the training goes on without it"]
    assert len(fake.calls) == calls


def test_a_missing_package_is_told_before_anything_starts(
    train_config: TrainConfig, tmp_path: Path, display: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else real(name, *rest))
    config = train_config.model_copy(update={"tracker": "wandb"})
    with pytest.raises(ConfigError, match=r"wandb, which is not installed; .*; pip install 'cyclevar\[wandb\]'"):
        train(config, tmp_path / "run", resume=False, display=display, device="cpu")
    assert not (tmp_path / "run").exists()


def scalars(folder: RunFolder, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_gets_an_event_file_and_a_resumed_run_goes_on_in_it(folder: RunFolder, accelerator: Any) -> None:
    pytest.importorskip("tensorboard", reason="no tensorboard: pip install 'cyclevar[tensorboard]'")

    for begin, steps in ((0, (2, 4, 6)), (4, (6, 8))):  # the second time after 4 steps, which were saved
        tracker = open_tracker("tensorboard", folder, TrainConfig(seed=begin))
        tracker.start(begin)
        for line in lines(*steps):
            tracker.log(line)
        tracker.finish()
        assert scalars(folder, "loss") == [(step, float(step)) for step in range(2, steps[-1] + 1, 2)]


def test_tracking_changes_nothing_that_is_learned(
    train_config: TrainConfig, tmp_path: Path, display: Any, light: None
) -> None:
    pytest.importorskip("tensorboard", reason="no tensorboard: pip install 'cyclevar[tensorboard]'")
    states = []
    for tracker in ("none", "tensorboard"):
        changes = {"tracker": tracker, "loop": train_config.loop.model_dump() | {"steps": 14}}
        config = validate(TrainConfig, train_config.model_dump() | changes)
        out = train(config, tmp_path / tracker, resume=False, display=display, device="cpu")
        states.append(RunFolder(out).saved()[-1].read_bytes())
        assert RunFolder(out).report.is_file()
    assert states[0] == states[1]
    assert list((tmp_path / "tensorboard/tensorboard").glob("events.out.tfevents.*"))
    assert not (tmp_path / "none/tensorboard").exists()
    changed = validate(TrainConfig, config.model_dump() | {"tracker": "none"})  # may change when a run goes on
    train(changed, tmp_path / "tensorboard", resume=True, display=display, device="cpu")


def test_others_know_a_run_by_one_id(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import tracking

    begun: list[dict[str, Any]] = []

    class Recorded:
        def __init__(self, project: str, **settings: Any) -> None:
            begun.append({"project": project, **settings})

        def start(self) -> None:
            pass

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: object())
    for name, attribute in (("wandb", "WandBTracker"), ("trackio", "TrackioTracker")):
        monkeypatch.setattr(tracking, attribute, Recorded)
        for step in (0, 5):
            open_tracker(name, folder, TrainConfig(seed=3)).start(step)
    names = {settings["name"] for settings in begun}
    assert len(begun) == 4
    assert len(names) == 1
    assert names.pop().startswith("run-")
    assert {settings["resume"] for settings in begun} == {"allow"}
    assert all(settings["config"]["seed"] == 3 and settings["project"] == "cyclevar" for settings in begun)
    assert begun[0]["id"] == begun[1]["id"]
    other = RunFolder(folder.path.parent / "other" / "run")
    other.begin(TrainConfig(), {})
    open_tracker("wandb", other, TrainConfig()).start(0)
    assert begun[-1]["id"] != begun[0]["id"]  # another folder of the same name is another run
