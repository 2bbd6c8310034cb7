"""The loop that every training shares: resume, update, log, validate, draw samples, save."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from cyclevar.core.config import LoopConfig
from cyclevar.core.data.transforms import to_picture
from cyclevar.core.training.runs import Parts, RunFolder


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
        """Rows of pictures ``[N,3,H,W]`` in [-1,1] for the sample grid, equal N."""

    def waited(self) -> float:
        """Seconds spent waiting for data since the last call."""
        return 0.0


class Display(Protocol):
    """What shows progress to a person."""

    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        """Called after every update that is logged."""

    def note(self, text: str) -> None:
        """One line worth keeping on the screen."""


def run(task: Task, folder: RunFolder, config: LoopConfig, display: Display) -> None:
    """Train until ``config.steps`` updates are made, from the newest checkpoint if there is one."""
    step = folder.restore(task.parts())
    if step:
        folder.rewind_log(step)
        display.note(f"resumed after {step} of {config.steps} steps")
    clock, since, sums, spans = time.perf_counter(), step, dict[str, float](), dict[str, int]()
    while step < config.steps:
        for name, value in task.update(step).items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} at step {step}")
            sums[name] = sums.get(name, 0.0) + value
            spans[name] = spans.get(name, 0) + 1
        step += 1
        last = step == config.steps
        if step % config.log_every == 0 or last:
            seconds = time.perf_counter() - clock
            values: dict[str, Any] = {"step": step} | {name: sums[name] / spans[name] for name in sums}
            values["images_per_second"] = (step - since) * task.pictures_per_step / seconds
            values["data_wait"] = task.waited() / seconds
            values["memory_gb"] = _memory_gb()
            folder.log(values)
            display.show(step, config.steps, values)
            clock, since, sums, spans = time.perf_counter(), step, {}, {}
        if step % config.validate_every == 0 or last:
            found = task.validate(step)
            folder.log({"step": step} | {f"validation/{name}": value for name, value in found.items()})
            display.note(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
        if step % config.sample_every == 0 or last:
            grid = torch.cat([torch.cat(list(row), dim=2) for row in task.sample(step)], dim=1)
            to_picture(grid).save(folder.samples / f"step-{step:08d}.png")
        if step % config.save_every == 0 or last:
            folder.save(step, task.parts(), keep=config.keep)


def _memory_gb() -> float:
    """Peak memory in GB: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
