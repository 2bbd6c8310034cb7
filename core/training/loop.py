"""The loop that every training shares: resume, update, log, validate, draw samples, save, report, stop if asked to."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor

from cyclevar.core.config import LoopConfig
from cyclevar.core.data.transforms import to_picture
from cyclevar.core.errors import CyclevarError
from cyclevar.core.report.page import write_report
from cyclevar.core.training.runs import Parts, RunFolder
from cyclevar.core.training.trackers import Tracker

_log = logging.getLogger(__name__)

REPORT_SHARE = 0.02
"""Of the time, at most, goes into keeping the report up to date."""


class Task(ABC):
    """One kind of training. It owns its models, optimizers and data; the loop owns the run folder and the clock."""

    pictures_per_step: int

    @abstractmethod
    def parts(self) -> Parts:
        """Everything that a resumed run needs, besides the random state; the same names every time."""

    @abstractmethod
    def update(self, step: int) -> Mapping[str, float]:
        """One update, ``step`` counted from 0; figures for the log. Data come as a function of ``step`` alone."""

    @abstractmethod
    def validate(self, step: int) -> Mapping[str, float]:
        """Figures on held-out pictures after ``step`` updates; must not draw from the global random state."""

    @abstractmethod
    def sample(self, step: int) -> list[Tensor]:
        """Rows of pictures ``[N,3,H,W]`` in [-1,1] for the sample grid, equal N; draws nothing either."""

    def remarks(self, step: int, found: Mapping[str, float]) -> Sequence[str]:
        """What a person should be told about the figures that `validate` found, a sentence each."""
        return ()

    def score(self, found: Mapping[str, float]) -> float | None:
        """What the best state is chosen by, lower is better, from what `validate` found; None where none is chosen."""
        return None

    def averaged(self) -> Parts:
        """The parts that the best state consists of: all that is used once the training is over."""
        return {}

    def waited(self) -> float:
        """Seconds spent waiting for data since the last call."""
        return 0.0


class Display(Protocol):
    """What shows progress to a person."""

    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        """Called after every update that is logged."""

    def note(self, text: str) -> None:
        """One line worth keeping on the screen."""


class DivergenceError(CyclevarError):
    """A training whose figures are no longer finite. Its last checkpoint is from before."""


class StoppedError(CyclevarError):
    """A training that was asked to stop by a signal, and has saved its state."""

    def __init__(self, number: int, step: int, steps: int, path: Path) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after {step} of {steps} steps, which are saved in {path}",
            hint="go on by --resume auto",
        )
        self.exit_code = 128 + number


def run(task: Task, folder: RunFolder, config: LoopConfig, display: Display, tracker: Tracker | None = None) -> None:
    """Train until ``config.steps`` updates are made, from the newest checkpoint if there is one.

    ``tracker`` is told what the log is told. The run's report is kept up to date.

    Raises:
        StoppedError: SIGTERM or SIGINT came; the update was finished and the state saved. A second one stops at once.
        DivergenceError: a figure is not finite.
        CheckpointError: a state cannot be read or saved; what was saved before is untouched.
    """
    step = folder.restore(task.parts())
    folder.rewind_log(step)
    if step:
        display.note(f"resumed after {step} of {config.steps} steps")
    meter, warned, report = _Meter(task), set[str](), _Report(folder)
    tracker = tracker or Tracker()
    tracker.start(step)
    with _signals() as caught, contextlib.ExitStack() as at_the_end:
        at_the_end.callback(tracker.finish)
        at_the_end.callback(report.write)
        while step < config.steps:
            with meter.running():
                figures = task.update(step)
            _demand_finite(figures, step + 1, folder)
            meter.add(figures)
            step += 1
            stop, last = bool(caught), step == config.steps
            if step % config.log_every == 0 or last or stop:
                values = {"step": step, **meter.read()}
                folder.log(values)
                tracker.log(values)
                display.show(step, config.steps, values)
            if (step % config.validate_every == 0 or last) and not stop:
                found = task.validate(step)
                _demand_finite(found, step, folder)
                line = {"step": step} | {f"validation/{name}": value for name, value in found.items()}
                folder.log(line)
                tracker.log(line)
                display.note(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
                score, best = task.score(found), folder.best()
                if score is not None and (best is None or score < best.score):
                    folder.save_best(step, score, task.averaged())
                    display.note(f"step {step}: the best so far")
                for remark in task.remarks(step, found):
                    display.note(f"step {step}: {remark}")
                    if remark not in warned:
                        _log.warning("%s", remark)
                        warned.add(remark)
            if (step % config.sample_every == 0 or last) and not stop:
                grid = torch.cat([torch.cat(list(row), dim=2) for row in task.sample(step)], dim=1)
                to_picture(grid).save(folder.samples / f"step-{step:08d}.png")
            if step % config.save_every == 0 or last or stop:
                folder.save(step, task.parts(), keep=config.keep)
            if (step % config.validate_every == 0 or step % config.save_every == 0) and not (last or stop):
                report.refresh()
            if stop:
                raise StoppedError(caught[0], step, config.steps, folder.path)


class _Report:
    """Keeps a run's report up to date, in a small share of the time."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._due, self._failed = folder, 0.0, False

    def refresh(self) -> None:
        """Write it, unless that would take more than `REPORT_SHARE` of the time."""
        if time.monotonic() >= self._due:
            begun = time.monotonic()
            self.write()
            self._due = begun + (time.monotonic() - begun) / REPORT_SHARE

    def write(self) -> None:
        try:
            write_report([self._folder.path], self._folder.report)
        except Exception as error:  # whatever is wrong with a page, it is not worth a training
            if not self._failed:
                _log.warning("the report of %s cannot be written (%s)", self._folder.path, error)
            self._failed = True


class _Meter:
    """Means of the figures since they were last read, and how fast the updates were."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._start()

    def _start(self) -> None:
        self._sums, self._counts = dict[str, float](), dict[str, int]()
        self._updates, self._seconds = 0, 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Around every update."""
        begun = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - begun
        self._updates += 1

    def add(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        values = {name: total / self._counts[name] for name, total in self._sums.items()}
        values["images_per_second"] = self._updates * self._task.pictures_per_step / self._seconds
        values["data_wait"] = self._task.waited() / self._seconds
        values["memory_gb"] = _memory_gb()
        self._start()
        return values


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects the first SIGTERM or SIGINT instead of dying of it; the next one does what it always does."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        restore()
        if previous[signal.SIGINT] == signal.SIG_IGN:  # as shells start what runs in the background
            signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in previous:
        signal.signal(number, remember)
    try:
        yield caught
    finally:
        restore()


def _demand_finite(figures: Mapping[str, float], step: int, folder: RunFolder) -> None:
    wrong = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
    if wrong:
        saved = folder.saved()
        raise DivergenceError(
            f"the training diverged in step {step}: {', '.join(wrong[:4])}",
            expected="finite figures",
            hint="lower the learning rate and start a new run; the last checkpoint is "
            + (str(saved[-1]) if saved else "none"),
        )


def _memory_gb() -> float:
    """Peak memory in GB: of the GPU where one is in use, else of this process (0 where the system does not tell)."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    import sys

    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
