"""Experiment trackers: the figures of a run passed on to TensorBoard, Weights & Biases or Trackio through accelerate.

A tracker is asked for by the setting ``tracker``. One whose package is missing is an error before anything starts, when
it costs nothing to put right; one that fails later is a single warning, and the training goes on without it.
"""

from __future__ import annotations

import importlib.util
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cyclevar.core.config.base import Settings, flat
from cyclevar.core.errors import ConfigError
from cyclevar.core.report.run_files import RunFiles
from cyclevar.core.runtime.files import save_text

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

_log = logging.getLogger(__name__)

PROJECT = "cyclevar"
"""What Weights & Biases and Trackio keep the runs under."""


class Tracker:
    """Passes the figures of a run on; without ``make`` it does nothing."""

    def __init__(self, name: str = "none", make: Callable[[int], GeneralTracker] | None = None) -> None:
        """``make`` starts accelerate's tracker, given the updates made so far."""
        self._name, self._make = name, make
        self._tracker: GeneralTracker | None = None

    def start(self, step: int) -> None:
        """Begin, or go on after ``step`` updates with what the run has tracked before."""
        if self._make is not None:
            make = self._make
            self._try(lambda: setattr(self, "_tracker", make(step)))

    def log(self, values: Mapping[str, Any]) -> None:
        """One line of the metrics, with its ``step``."""
        tracker = self._tracker
        if tracker is not None:
            figures = {name: value for name, value in values.items() if name != "step"}
            self._try(lambda: tracker.log(figures, step=values["step"]))

    def finish(self) -> None:
        """Close what was begun."""
        tracker = self._tracker
        if tracker is not None:
            self._try(tracker.finish)
            self._tracker = None

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # whatever a foreign service raises, it is not worth a training
            self._tracker = None
            _log.warning("tracker %s failed (%r): the training goes on without it", self._name, error)


def open_tracker(name: str, files: RunFiles, config: Settings) -> Tracker:
    """The tracker of a run, to be started when there is an accelerator. Raises `ConfigError` without its package.

    TensorBoard writes to ``RUN/tensorboard``. The others know the run by an id that is kept in ``RUN/tracker-id``, so
    that a resumed run goes on as the same one.
    """
    if name == "none":
        return Tracker()
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"tracker is {name}, which is not installed",
            expected="an installed tracker",
            hint=f"pip install 'cyclevar[{name}]', or leave out the tracker",
        )
    return Tracker(name, lambda step: _start(name, files, config, step))


def _start(name: str, files: RunFiles, config: Settings, step: int) -> GeneralTracker:
    from accelerate import tracking

    settings = flat(config.model_dump(mode="json"))
    tracker: GeneralTracker
    if name == "tensorboard":  # what a resumed run makes anew replaces what was written of it before
        resumed = {"purge_step": step + 1} if step else {}
        tracker = tracking.TensorBoardTracker("tensorboard", str(files.path), **resumed)
        tracker.start()
        if not step:
            tracker.log({"settings": "".join(f"    {key}: {value}\n" for key, value in settings.items())}, step=0)
        return tracker
    kept = files.path / "tracker-id"
    if not kept.exists():
        save_text(kept, uuid.uuid4().hex[:12])
    run = f"{files.path.resolve().name}-{kept.read_text(encoding='utf-8')}"
    if name == "wandb":
        place = {"id": run, "dir": str(files.path)}
        tracker = tracking.WandBTracker(PROJECT, name=run, resume="allow", config=settings, **place)
    else:
        tracker = tracking.TrackioTracker(PROJECT, name=run, resume="allow", config=settings, embed=False)
    tracker.start()
    return tracker
