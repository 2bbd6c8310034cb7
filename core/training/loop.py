"""The loop that every training shares: resume, update, log, validate, draw samples, save, report, stop if asked to."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from cyclevar.core.checkpoints import write_atomically
from cyclevar.core.config import LoopConfig
from cyclevar.core.data.transforms import to_picture
from cyclevar.core.errors import CyclevarError
from cyclevar.core.report.page import write_report
from cyclevar.core.session import Session
from cyclevar.core.training.divergence import (
    NonFiniteError,
    Spikes,
    demand_finite,
    demand_finite_state,
    first_module,
    keep_failure,
    steps_left_out,
)
from cyclevar.core.training.runs import Parts, RunFolder, random_state
from cyclevar.core.training.team import ALONE, Team
from cyclevar.core.training.trackers import Tracker

_log = logging.getLogger(__name__)

REPORT_SHARE = 0.02
"""Of the time, at most, goes into keeping the report up to date."""


class Task(ABC):
    """One kind of training. It owns its models, optimizers and data; the loop owns the run folder and the clock."""

    pictures_per_step: int
    """Of both domains and all processes."""
    team: Team = ALONE
    session: Session | None = None
    """What plugins add to this training."""

    @abstractmethod
    def parts(self) -> Parts:
        """Everything that a resumed run needs, besides the random state; the same names every time."""

    @abstractmethod
    def update(self, step: int) -> Mapping[str, float]:
        """One update, ``step`` counted from 0; figures for the log. Data come as a function of ``step`` alone.

        May raise `NonFiniteError`.
        """

    def pictures(self, step: int) -> Mapping[str, Tensor]:
        """What an update learns from, for whoever looks into one that went wrong."""
        return {}

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

    def tell(self, event: Literal["begin", "on_update", "on_validation", "end"], *arguments: Any) -> None:
        """Tell the session's callbacks of an event (`cyclevar.core.callbacks.Callback`)."""
        if self.session is None:
            return
        match event:
            case "begin":
                self.session.begin()
            case "end":
                self.session.end()
            case _:
                for callback in self.session.callbacks:
                    self.session.tell(callback, event, *arguments)


class Display(Protocol):
    """What shows progress to a person."""

    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        """Called after every update that is logged."""

    def note(self, text: str) -> None:
        """One line worth keeping on the screen."""


class DivergenceError(CyclevarError):
    """A training whose figures, gradients or weights are no longer finite. Its last checkpoint is from before."""


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

    ``tracker`` is told what the log is told. The run's report is kept up to date. A step that makes something that is
    not finite is written to ``RUN/failures``; ``config.on_divergence`` says what follows.

    Raises:
        StoppedError: SIGTERM or SIGINT came; the update was finished and the state saved. A second one stops at once.
        DivergenceError: something is not finite, and the run may not go on without that step.
        CheckpointError: a state cannot be read or saved; what was saved before is untouched.
        PluginError: a callback failed; the state was saved.
    """
    team = task.team
    task_parts = task.parts()
    team.align(task_parts)
    step = team.in_turn(lambda: folder.restore(task.parts()))
    folder.rewind_log(step)
    if step:
        display.note(f"resumed after {step} of {config.steps} steps")
    meter, warned, report, spikes = _Meter(task), set[str](), _Report(folder), Spikes(config.spike)
    left_out = steps_left_out(folder)
    if config.on_divergence == "restore" and team.answer(not folder.saved()):
        folder.save(0, task.parts(), keep=config.keep)
    tracker = tracker or Tracker()
    tracker.start(step)
    with _signals() as caught, contextlib.ExitStack() as at_the_end:
        at_the_end.callback(tracker.finish)
        if folder.writes:
            at_the_end.callback(report.write)
        at_the_end.enter_context(team.watching(folder.path))

        def tell(values: Mapping[str, Any]) -> None:
            folder.log(values)
            tracker.log(values)

        def validate() -> None:
            found, _ = team.agree(task.validate(step))
            demand_finite(found)
            tell({"step": step} | {f"validation/{name}": value for name, value in found.items()})
            display.note(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
            score, best = task.score(found), folder.best()
            if team.answer(score is not None and (best is None or score < best.score)) and score is not None:
                folder.save_best(step, score, task.averaged())
                display.note(f"step {step}: the best so far")
            for remark in task.remarks(step, found):
                display.note(f"step {step}: {remark}")
                if remark not in warned:
                    _log.warning("%s", remark)
                    warned.add(remark)

            call_back("on_validation", found)

        def save() -> None:
            demand_finite_state(task.parts())
            folder.save(step, task.parts(), keep=config.keep)

        def call_back(event: Literal["on_update", "on_validation"], figures: Mapping[str, float]) -> None:
            """A callback that fails stops the run, which is saved before."""
            try:
                task.tell(event, step, figures)
            except CyclevarError:
                save()
                display.note(f"step {step}: a callback failed; the state is saved")
                raise

        task.tell("begin")
        while step < config.steps:
            random, number = random_state(), step
            act: Callable[[], object] = functools.partial(task.update, number)
            try:
                made: Mapping[str, float] = {}
                if number + 1 not in left_out:
                    with meter.running():
                        made = task.update(number)
                figures, signalled = team.agree(made, caught[0] if caught else 0)
                if made:
                    demand_finite(figures)
                    meter.add(figures)
                    for remark in spikes.look(number + 1, figures):
                        display.note(f"step {number + 1}: {remark}")
                step += 1
                if step not in left_out:
                    call_back("on_update", figures)
                stop, last = bool(signalled), step == config.steps
                if step % config.log_every == 0 or last or stop:
                    values = {"step": step, **meter.read()}
                    tell(values)
                    display.show(step, config.steps, values)
                if (step % config.validate_every == 0 or last) and not stop:
                    act = functools.partial(task.validate, step)
                    validate()
                if (step % config.sample_every == 0 or last) and not stop:
                    rows = task.sample(step)
                    if folder.writes:
                        write_grid(folder.samples / f"step-{step:08d}.png", rows)
                if step % config.save_every == 0 or last or stop:
                    save()
            except NonFiniteError as error:
                module = first_module(task, random, act) if team.alone else None  # the others would wait for it
                may_go_on = config.on_divergence == "restore" and len(left_out) < config.most_restores
                kept = folder.failures
                if folder.writes:
                    kept = keep_failure(
                        folder, number + 1, str(error), module, task.pictures(number), random, left_out=may_go_on
                    )
                if not may_go_on:
                    raise _diverged(number + 1, str(error), module, kept, folder, config) from error
                left_out.add(number + 1)
                step = team.in_turn(lambda: folder.restore(task.parts()))
                folder.rewind_log(step)
                meter.start()
                where = f" in {module}" if module else ""
                display.note(
                    f"step {number + 1} went wrong{where} ({error}; {kept}): going on after step {step} without it, "
                    f"{len(left_out)} of at most {config.most_restores} left out"
                )
                continue
            looked = step % config.validate_every == 0 or step % config.save_every == 0
            if folder.writes and looked and not (last or stop):
                report.refresh()
            if stop:
                raise StoppedError(signalled, step, config.steps, folder.path)
        task.tell("end")


def write_grid(path: Path, rows: Sequence[Tensor]) -> None:
    """Rows of pictures ``[N,3,H,W]`` in [-1,1] as one PNG file."""
    picture = to_picture(torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1))
    write_atomically(path, lambda partial: picture.save(partial, format="PNG"))


def _diverged(
    step: int, problem: str, module: str | None, kept: Path, folder: RunFolder, config: LoopConfig
) -> DivergenceError:
    saved = folder.saved()
    where = f" (first in {module})" if module else ""
    other = "" if config.on_divergence == "restore" else ", or resume this one with --set loop.on_divergence=restore"
    return DivergenceError(
        f"the training diverged in step {step}: {problem}{where}",
        expected="finite figures",
        hint=f"lower the learning rate and start a new run{other}; what the step saw is in {kept}; the last checkpoint "
        f"is {saved[-1] if saved else 'none'}",
    )


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
        self.start()

    def start(self) -> None:
        """Begin anew."""
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
        if self._updates:  # none where every step was left out
            values["images_per_second"] = self._updates * self._task.pictures_per_step / self._seconds
            values["data_wait"] = self._task.waited() / self._seconds
        values["memory_gb"] = _memory_gb()
        self.start()
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
