"""The loop that every training shares: resume, update, log, validate, draw samples, save, report, stop if asked to."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor

from cyclevar.core.config.loop import LoopConfig
from cyclevar.core.data.grids import write_grid
from cyclevar.core.errors import CyclevarError
from cyclevar.core.report.page import write_report
from cyclevar.core.training.divergence import (
    NonFiniteError,
    Spikes,
    demand_finite,
    demand_finite_state,
    first_module,
    keep_failure,
    steps_left_out,
)
from cyclevar.core.training.run_folder import RunFolder
from cyclevar.core.training.state import random_state
from cyclevar.core.training.task import Display, Task
from cyclevar.core.training.tracking import Tracker

_log = logging.getLogger(__name__)

REPORT_SHARE = 0.02
"""Of the time, at most, goes into keeping the report up to date."""


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


def run(
    task: Task,
    folder: RunFolder,
    config: LoopConfig,
    display: Display,
    tracker: Tracker | None = None,
    begin: Callable[[], object] = lambda: None,
) -> None:
    """Train until ``config.steps`` updates are made, from the newest checkpoint if there is one.

    ``begin`` is called once the checkpoint is loaded, before anything is written: a state that is refused changes
    nothing. ``tracker`` is told what the log is told. The run's report is kept up to date. A step that makes something
    that is not finite is written to ``RUN/failures``; ``config.on_divergence`` says what follows.

    Raises:
        StoppedError: SIGTERM or SIGINT came; the update was finished and the state saved. A second one stops at once.
        DivergenceError: something is not finite, and the run may not go on without that step.
        CheckpointError: a state cannot be read or saved; what was saved before is untouched.
        PluginError: a callback failed; the state was saved.
    """
    training = _Training(task, folder, config, display, tracker or Tracker(), begin)
    with _signals() as caught, contextlib.ExitStack() as at_the_end:
        training.begin(at_the_end)
        while training.step < config.steps:
            training.make_step(caught)
        task.tell("end")


class _Training:
    """A run while it goes on: ``step`` updates are made."""

    def __init__(
        self,
        task: Task,
        folder: RunFolder,
        config: LoopConfig,
        display: Display,
        tracker: Tracker,
        begin: Callable[[], object],
    ) -> None:
        self._task, self._folder, self._config, self._display = task, folder, config, display
        self._tracker, self._report, self._meter = tracker, _Report(folder), _Meter(task)
        self._spikes, self._warned = Spikes(config.spike), set[str]()
        self._open = list[str]()
        """What is due after the last step and not made yet."""
        self._acts = list[Callable[[], object]]()
        task.team.align(task.parts())
        self._left_out = steps_left_out(folder)
        self._restore(begin)
        if self.step:
            display.note(f"resumed after {self.step} of {config.steps} steps")
        if config.on_divergence == "restore" and task.team.answer(not folder.saved()):
            self._save()

    def begin(self, at_the_end: contextlib.ExitStack) -> None:
        """Start what goes beside the training, and have it finished in the end."""
        self._tracker.start(self.step)
        at_the_end.callback(self._tracker.finish)
        at_the_end.callback(self._folder.manifest.finish)
        if self._folder.writes:
            at_the_end.callback(self._report.write)
        at_the_end.enter_context(self._task.team.watching(self._folder.path))
        self._task.tell("begin")
        if self._open:
            self._catch_up()

    def _catch_up(self) -> None:
        """Make what was due when a signal stopped the run."""
        random, step = random_state(), self.step
        try:
            self._make_due()
        except NonFiniteError as error:
            self._go_back(step, str(error), random, self._acts[-1])

    def make_step(self, caught: Sequence[int]) -> None:
        """One update and all that is due after it.

        If a signal was ``caught``, only save and stop. What else is due then is made when the run is resumed.
        """
        random, number = random_state(), self.step
        self._acts = [functools.partial(self._task.update, number)]
        try:
            signalled = self._update(number, caught)
            if not signalled:
                self._make_due()
            if self._due(self._config.save_every) or self._last or signalled:
                self._save()
        except NonFiniteError as error:
            self._go_back(number + 1, str(error), random, self._acts[-1])
            return
        looked = self._due(self._config.validate_every) or self._due(self._config.save_every)
        if self._folder.writes and looked and not (self._last or signalled):
            self._report.refresh()
        if signalled:
            raise StoppedError(signalled, self.step, self._config.steps, self._folder.path)

    @property
    def _last(self) -> bool:
        return self.step == self._config.steps

    def _list_due(self) -> list[str]:
        """Return what is due after this step, in its order: log, validate, sample."""
        every = {
            "log": self._config.log_every,
            "validate": self._config.validate_every,
            "sample": self._config.sample_every,
        }
        return [name for name, steps in every.items() if self._due(steps) or self._last]

    def _make_due(self) -> None:
        """Log, validate and sample, if that is due and not made yet."""
        if self._take("log"):
            values = {"step": self.step, **self._meter.read()}
            self._tell(values)
            self._display.show(self.step, self._config.steps, values)
        if self._take("validate"):
            self._acts.append(functools.partial(self._task.validate, self.step))
            self._validate()
        if self._take("sample"):
            rows = self._task.sample(self.step)
            if self._folder.writes:
                write_grid(self._folder.samples / f"step-{self.step:08d}.png", rows)

    def _take(self, name: str) -> bool:
        """Return whether ``name`` is due and not made yet; it counts as made from here on."""
        if name not in self._open:
            return False
        self._open.remove(name)
        return True

    def _due(self, every: int) -> bool:
        return self.step % every == 0

    def _update(self, number: int, caught: Sequence[int]) -> int:
        """Update ``number``, unless it is left out; the signal that any process has caught, or 0."""
        made: Mapping[str, float] = {}
        if number + 1 not in self._left_out:
            with self._meter.running():
                made = self._task.update(number)
        figures, signalled = self._task.team.agree(made, caught[0] if caught else 0)
        if made:
            demand_finite(figures)
            self._meter.add(figures)
            for remark in self._spikes.look(number + 1, figures):
                self._display.note(f"step {number + 1}: {remark}")
        self.step += 1
        self._open = self._list_due()
        if made:
            self._call_back("on_update", figures)
        return signalled

    def _validate(self) -> None:
        task, folder, step = self._task, self._folder, self.step
        found, _ = task.team.agree(task.validate(step))
        demand_finite(found)
        self._tell({"step": step} | {f"validation/{name}": value for name, value in found.items()})
        self._display.note(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
        score, best = task.score(found), folder.best()
        if task.team.answer(score is not None and (best is None or score < best.score)) and score is not None:
            folder.save_best(step, score, task.averaged())
            self._display.note(f"step {step}: the best so far")
        for remark in task.remarks(step, found):
            self._display.note(f"step {step}: {remark}")
            if remark not in self._warned:
                _log.warning("%s", remark)
                self._warned.add(remark)
        self._call_back("on_validation", found)

    def _save(self) -> None:
        parts = self._task.parts()
        demand_finite_state(parts)
        position = {"due": self._open, "meter": self._meter.state()}
        self._folder.save(self.step, parts, keep=self._config.keep, position=position)

    def _restore(self, begin: Callable[[], object] = lambda: None) -> None:
        """Load the newest checkpoint, call ``begin``, and rewind the run to it."""
        self.step = self._task.team.in_turn(lambda: self._folder.restore(self._task.parts()))
        begin()
        self._folder.rewind(self.step)
        position = self._folder.position(self.step)
        self._open = [name for name in position.get("due", ()) if name in self._list_due()]
        self._meter.start(position.get("meter"))

    def _tell(self, values: Mapping[str, Any]) -> None:
        self._folder.log(values)
        self._tracker.log(values)

    def _call_back(self, event: Literal["on_update", "on_validation"], figures: Mapping[str, float]) -> None:
        """A callback that fails stops the run, which is saved before."""
        try:
            self._task.tell(event, self.step, figures)
        except CyclevarError:
            self._save()
            self._display.note(f"step {self.step}: a callback failed; the state is saved")
            raise

    def _go_back(self, step: int, problem: str, random: Mapping[str, Tensor], act: Callable[[], object]) -> None:
        """Keep what ``step`` (from 1) saw, and go on from the last checkpoint without it, or raise `DivergenceError`.

        ``act`` is what went wrong, ``random`` the random state that the step began with.
        """
        task, folder, config, left_out = self._task, self._folder, self._config, self._left_out
        module = first_module(task, random, act) if task.team.alone else None  # the others would wait for it
        restoring = config.on_divergence == "restore"
        may_go_on, kept = restoring and len(left_out) < config.most_restores, folder.failures
        if folder.writes:
            kept = keep_failure(folder, step, problem, module, task.pictures(step - 1), random, left_out=may_go_on)
        if not may_go_on:
            saved = folder.saved()
            other = "" if restoring else ", or resume this one with --set loop.on_divergence=restore"
            raise DivergenceError(
                f"the training diverged in step {step}: {problem}" + (f" (first in {module})" if module else ""),
                expected="finite figures",
                hint=f"lower the learning rate and start a new run{other}; what the step saw is in {kept}; the last "
                f"checkpoint is {saved[-1] if saved else 'none'}",
            )
        left_out.add(step)
        self._restore()
        self._display.note(
            f"step {step} went wrong" + (f" in {module}" if module else "") + f" ({problem}; {kept}): going on after "
            f"step {self.step} without it, {len(left_out)} of at most {config.most_restores} left out"
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

    def start(self, state: Mapping[str, tuple[float, int]] | None = None) -> None:
        """Forget all figures, or continue from a `state`. The speed is measured from now on."""
        self._sums = {name: total for name, (total, _) in (state or {}).items()}
        self._counts = {name: count for name, (_, count) in (state or {}).items()}
        self._updates, self._seconds = 0, 0.0

    def state(self) -> dict[str, tuple[float, int]]:
        """Return sum and count of the figures that were added since they were last read, by name."""
        return {name: (total, self._counts[name]) for name, total in self._sums.items()}

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
