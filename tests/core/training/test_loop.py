"""The loop alone, around a task that only counts."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cyclevar.core.config.loop import LoopConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.errors import CyclevarError, PluginError
from cyclevar.core.interfaces import callbacks
from cyclevar.core.interfaces.callbacks import Callback
from cyclevar.core.training import loop
from cyclevar.core.training.loop import DivergenceError, StoppedError, run
from cyclevar.core.training.run_folder import Best, RunFolder
from cyclevar.core.training.state import Parts
from cyclevar.core.training.task import Display, Task
from cyclevar.core.training.tracking import Tracker
from cyclevar.core.weights.checkpoints import load_tensors

LOOP = LoopConfig(steps=12, log_every=2, validate_every=4, sample_every=6, save_every=5)


class Counting(Task):
    """Adds 1 a step; ``at`` is called before the update of a step."""

    pictures_per_step = 3

    def __init__(self, at: Callable[[int], None] = lambda step: None) -> None:
        self.net = nn.Module()
        self.net.register_buffer("total", torch.zeros(()))
        self.at, self.loss = at, 1.0

    def parts(self) -> Parts:
        return {"net": self.net}

    def update(self, step: int) -> Mapping[str, float]:
        self.at(step)
        self.net.get_buffer("total").add_(1)
        return {"loss": self.loss, "even": float(step)} if step % 2 == 0 else {"loss": 3 * self.loss}

    def validate(self, step: int) -> Mapping[str, float]:
        return {"total": float(self.net.get_buffer("total"))}

    def sample(self, step: int) -> list[Tensor]:
        return [torch.zeros(3, 3, 4, 5), torch.ones(3, 3, 4, 5)]

    def remarks(self, step: int, found: Mapping[str, float]) -> Sequence[str]:
        return ["it counts"] if step > 4 else []


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.begin(TrainConfig(), {})
    return folder


def metrics(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def test_everything_happens_when_it_is_due(folder: RunFolder, display: Any) -> None:
    run(Counting(), folder, LOOP, display)
    logged = [line["step"] for line in metrics(folder) if "loss" in line]
    assert logged == [value["step"] for value in display.values] == [2, 4, 6, 8, 10, 12]
    assert [line for line in metrics(folder) if "validation/total" in line] == [
        {"step": step, "validation/total": step} for step in (4, 8, 12)
    ]
    assert [path.name for path in folder.saved()] == ["step-00000010.safetensors", "step-00000012.safetensors"]
    grids = sorted(folder.samples.iterdir())
    assert [path.name for path in grids] == ["step-00000006.png", "step-00000012.png"]
    with Image.open(grids[0]) as grid:
        assert grid.size == (15, 8)


def test_figures_are_means_over_the_updates_that_have_them(folder: RunFolder, display: Any) -> None:
    run(Counting(), folder, LOOP, display)
    assert [(value["loss"], value["even"]) for value in display.values] == [(2.0, step) for step in range(0, 12, 2)]
    assert all(value["images_per_second"] > 0 and 0 <= value["data_wait"] <= 1 for value in display.values)


def test_the_last_step_does_everything(folder: RunFolder, display: Any) -> None:
    run(Counting(), folder, LOOP.model_copy(update={"steps": 7}), display)
    assert [value["step"] for value in display.values] == [2, 4, 6, 7]
    assert metrics(folder)[-1] == {"step": 7, "validation/total": 7}
    assert folder.saved()[-1].name == "step-00000007.safetensors"


def test_a_finished_run_has_nothing_left_to_do(folder: RunFolder, display: Any) -> None:
    run(Counting(), folder, LOOP, display)
    before = folder.metrics.read_text()
    task = Counting()
    run(task, folder, LOOP, display)
    assert (task.validate(0)["total"], folder.metrics.read_text()) == (12, before)


def test_a_run_goes_on_from_the_newest_state_and_its_log_too(folder: RunFolder, display: Any) -> None:
    def fall_over(step: int) -> None:
        if step == 9:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(Counting(fall_over), folder, LOOP, display)
    assert metrics(folder)[-1]["step"] == 8
    task = Counting()
    run(task, folder, LOOP, display)
    assert "resumed after 5 of 12 steps" in display.notes
    assert task.validate(0)["total"] == 12
    assert [line["step"] for line in metrics(folder)] == [2, 4, 4, 6, 8, 8, 10, 12, 12]


def test_a_damaged_newest_state_rewinds_the_log_with_it(folder: RunFolder, display: Any) -> None:
    run(Counting(), folder, LOOP.model_copy(update={"steps": 10}), display)
    newest = folder.saved()[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    seen: list[int] = []
    run(Counting(seen.append), folder, LOOP.model_copy(update={"steps": 10}), display)
    assert seen == [5, 6, 7, 8, 9]
    assert [line["step"] for line in metrics(folder) if "loss" in line] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_and_saves(folder: RunFolder, display: Any, number: int, code: int) -> None:
    def send(step: int) -> None:
        if step == 7:
            os.kill(os.getpid(), number)

    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    task = Counting(send)
    with pytest.raises(
        StoppedError, match=r"after 8 of 12 steps, which are saved in .*; go on by --resume auto"
    ) as stop:
        run(task, folder, LOOP, display)
    assert stop.value.exit_code == code
    assert task.validate(0)["total"] == 8
    assert folder.restore(task.parts()) == 8
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before
    run(Counting(), folder, LOOP, display)
    assert [line["step"] for line in metrics(folder) if "loss" in line] == [2, 4, 6, 8, 10, 12]


class Falling(Counting):
    """Each validation is better than the one before."""

    def score(self, found: Mapping[str, float]) -> float | None:
        return 100 - found["total"]

    def averaged(self) -> Parts:
        return {"net": self.net}


SPEEDS = ("images_per_second", "data_wait", "memory_gb")


@pytest.mark.parametrize("stops", [(step,) for step in range(1, 13)] + [(3, 4, 9, 12), tuple(range(1, 13))], ids=str)
def test_a_signal_in_any_step_loses_nothing(tmp_path: Path, display: Any, stops: tuple[int, ...]) -> None:
    """Logging, validating, sampling and saving steps, and the last: metrics, sheets and best are as without signals."""
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    for folder in (whole, stopped):
        folder.begin(TrainConfig(), {})
    run(Falling(), whole, LOOP, display)

    def send(step: int) -> None:
        if step + 1 in stops:
            os.kill(os.getpid(), signal.SIGTERM)

    for step in stops:
        with pytest.raises(StoppedError, match=f"after {step} of 12 steps"):
            run(Falling(send), stopped, LOOP, display)
        stopped.manifest.finish()
    run(task := Falling(), stopped, LOOP, display)
    assert float(task.net.get_buffer("total")) == 12
    found, expected = (
        [{k: v for k, v in line.items() if k not in SPEEDS} for line in metrics(one)] for one in (stopped, whole)
    )
    assert found == expected
    assert stopped.best() == whole.best() == Best(12, 88)
    assert load_tensors(stopped.best_state)[0]["net/total"] == 12
    assert [path.read_bytes() for path in sorted(stopped.samples.iterdir())] == [
        path.read_bytes() for path in sorted(whole.samples.iterdir())
    ]


def test_what_a_signal_left_is_made_once_and_only_if_still_due(folder: RunFolder, display: Any) -> None:
    """After the last step of a run that is then prolonged, no validation is due that the longer run would not have."""
    short = LOOP.model_copy(update={"steps": 7})

    def send(step: int) -> None:
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError):
        run(Counting(send), folder, short, display)
    run(Counting(), folder, LOOP, display)
    assert [line["step"] for line in metrics(folder)] == [2, 4, 4, 6, 8, 8, 10, 12, 12]


def test_a_rewound_run_has_the_best_state_of_its_own_steps(folder: RunFolder, display: Any) -> None:
    """A power cut after validation 8, so that the run goes back to step 5, where the best state was of step 4."""

    def fall_over(step: int) -> None:
        if step == 9:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(Falling(fall_over), folder, LOOP, display)
    assert folder.best() == Best(8, 92)
    seen: list[Best | None] = []
    again = Falling(lambda step: seen.append(folder.best()))
    run(again, folder, LOOP, display)
    assert seen[0] == Best(4, 96)
    assert folder.best() == Best(12, 88)


def test_a_second_signal_stops_at_once(folder: RunFolder, display: Any) -> None:
    def send(step: int) -> None:
        if step == 7:
            for _ in range(100):  # two that come together may be delivered as one
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        run(Counting(send), folder, LOOP, display)
    assert folder.saved()[-1].name == "step-00000005.safetensors"


def test_outside_the_main_thread_signals_are_left_alone(folder: RunFolder, display: Any) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            run(Counting(), folder, LOOP, display)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert folder.saved()[-1].name == "step-00000012.safetensors"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_is_told_with_the_step_and_the_last_state(folder: RunFolder, display: Any, value: float) -> None:
    task = Counting()

    def break_down(step: int) -> None:
        task.loss = value if step == 6 else 1.0

    task.at = break_down
    expected = rf"diverged in step 7: loss is {value}; expected finite figures; lower the learning rate .*step-00000005"
    with pytest.raises(DivergenceError, match=expected) as caught:
        run(task, folder, LOOP, display)
    assert isinstance(caught.value, CyclevarError)
    assert [path.name for path in folder.saved()] == ["step-00000005.safetensors"]
    assert all(math.isfinite(number) for line in metrics(folder) for number in line.values())


def test_a_remark_is_noted_each_time_and_warned_of_once(
    folder: RunFolder, display: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(Counting(), folder, LOOP, display)
    assert [note for note in display.notes if "it counts" in note] == ["step 8: it counts", "step 12: it counts"]
    assert [record.getMessage() for record in caplog.records] == ["it counts"]


def test_any_object_with_two_methods_is_a_display(display: Any) -> None:
    shown: Display = display
    assert shown is display


def test_the_report_is_written_at_the_end_and_whenever_it_costs_little(
    folder: RunFolder, display: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = loop.write_report

    def write(runs: Sequence[Path], out: Path) -> None:
        real(runs, out)
        seen.append(len(metrics(folder)))

    monkeypatch.setattr(loop, "write_report", write)
    monkeypatch.setattr(loop, "REPORT_SHARE", math.inf)
    run(Counting(), folder, LOOP, display)
    assert seen == [3, 3, 6, 7, 9]  # at validations 4 and 8, saves 5 and 10, and the end
    assert "step 12 of 3000" in folder.report.read_text()
    seen.clear()
    monkeypatch.setattr(loop, "REPORT_SHARE", 1e-9)
    run(Counting(), folder, LOOP.model_copy(update={"steps": 24}), display)
    assert len(seen) == 2  # the first time, which tells what it costs, and the end


def test_a_run_that_stops_or_fails_has_its_report(folder: RunFolder, display: Any) -> None:
    def fall_over(step: int) -> None:
        if step == 3:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(Counting(fall_over), folder, LOOP, display)
    assert "step 2 of 3000" in folder.report.read_text()


def test_a_report_that_fails_is_one_warning(
    folder: RunFolder, display: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(runs: Sequence[Path], out: Path) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(loop, "write_report", fail)
    monkeypatch.setattr(loop, "REPORT_SHARE", math.inf)
    with caplog.at_level(logging.WARNING):
        run(Counting(), folder, LOOP, display)
    assert [text for text in caplog.messages if "report" in text] == [
        f"the report of {folder.path} cannot be written (no ink)"
    ]
    assert folder.saved()[-1].name == "step-00000012.safetensors"


class Remembering(Tracker):
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told = list[Any]()

    def start(self, step: int) -> None:
        self.told.append(step)

    def log(self, values: Mapping[str, Any]) -> None:
        self.told.append(dict(values))

    def finish(self) -> None:
        self.told.append("finish")


def test_a_tracker_is_told_what_the_log_is_told(folder: RunFolder, display: Any) -> None:
    tracker = Remembering()
    run(Counting(), folder, LOOP, display, tracker)
    assert tracker.told == [0, *metrics(folder), "finish"]
    run(Counting(), folder, LOOP.model_copy(update={"steps": 14}), display, again := Remembering())
    assert again.told[0] == 12

    def fall_over(step: int) -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(Counting(fall_over), folder, LOOP.model_copy(update={"steps": 20}), display, last := Remembering())
    assert last.told == [14, "finish"]


class Judged(Counting):
    """Its scores are given, one a validation."""

    def __init__(self, *scores: float | None, at: Callable[[int], None] = lambda step: None) -> None:
        super().__init__(at)
        self.scores = scores

    def score(self, found: Mapping[str, float]) -> float | None:
        return self.scores[int(found["total"]) // 4 - 1]

    def averaged(self) -> Parts:
        return {"net": self.net}


def test_the_best_state_is_kept_whatever_comes_later(folder: RunFolder, display: Any) -> None:
    task = Judged(3.0, 1.0, 2.0)
    run(task, folder, LOOP, display)
    assert folder.best() == Best(8, 1.0)
    assert [note for note in display.notes if "best" in note] == ["step 4: the best so far", "step 8: the best so far"]
    folder.restore_best(task.averaged())
    assert task.validate(0)["total"] == 8


def test_without_a_score_there_is_no_best_state(folder: RunFolder, display: Any) -> None:
    run(Judged(None, None, None), folder, LOOP, display)
    assert folder.best() is None
    assert not folder.best_state.exists()


def test_a_resumed_run_knows_its_best_state(folder: RunFolder, display: Any) -> None:
    def fall_over(step: int) -> None:
        if step == 10:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(Judged(1.0, 2.0, 1.5, at=fall_over), folder, LOOP, display)
    run(Judged(1.0, 2.0, 1.5), folder, LOOP, display)
    assert folder.best() == Best(4, 1.0)


def test_a_damaged_best_state_is_none(folder: RunFolder, display: Any, caplog: pytest.LogCaptureFixture) -> None:
    run(Judged(1.0, 2.0, 3.0), folder, LOOP, display)
    folder.best_state.write_bytes(folder.best_state.read_bytes()[:20])
    assert folder.best() is None
    assert "is damaged and is not used" in caplog.text


class Told(Callback):
    """Notes what a training tells it, and fails after the update ``breaks_at``."""

    def __init__(self, breaks_at: int = 0) -> None:
        self.lines: list[str] = []
        self.breaks_at = breaks_at

    def begin(self, session: Any) -> None:
        self.lines.append("begin")

    def on_update(self, step: int, figures: Mapping[str, float]) -> None:
        if step == self.breaks_at:
            raise RuntimeError("no luck")
        self.lines.append(f"update {step} {figures['loss']:g}")

    def on_validation(self, step: int, figures: Mapping[str, float]) -> None:
        self.lines.append(f"validation {step} {figures['total']:g}")

    def end(self, result: Any) -> None:
        self.lines.append("end")


class Session(callbacks.Session):
    """One without a model."""

    def __init__(self, callback: Callback) -> None:
        self.callbacks = (callback,)


def test_callbacks_are_told_of_updates_and_validations(folder: RunFolder, display: Any) -> None:
    task, told = Counting(), Told()
    task.session = Session(told)
    run(task, folder, LOOP, display)
    expected = ["begin"]
    for step in range(1, 13):
        expected.append(f"update {step} {1 if step % 2 else 3}")
        if step % 4 == 0:
            expected.append(f"validation {step} {step}")
    assert told.lines == [*expected, "end"]


def test_a_callback_that_fails_stops_the_run_which_is_saved(folder: RunFolder, display: Any) -> None:
    task = Counting()
    task.session = Session(Told(breaks_at=7))
    with pytest.raises(PluginError, match="the callback Told failed in on_update: RuntimeError: no luck"):
        run(task, folder, LOOP, display)
    assert folder.saved()[-1].name == "step-00000007.safetensors"
    assert display.notes[-1] == "step 7: a callback failed; the state is saved"
    again = Counting()
    run(again, folder, LOOP, display)
    assert float(again.net.get_buffer("total")) == 12
