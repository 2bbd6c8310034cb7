"""A process that has imported everything, and forks a trainer for each line that it reads.

A line is JSON: ``out`` and ``config`` of a training, and what is to happen to it: ``file_limit``, the largest file that
it may write, in bytes; ``poison``, steps (from 0) whose gradients are not numbers; ``uncached``, pictures are read
anew for each batch. It prints the trainer's process id, and when that is gone its exit code, and what it noted.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cyclevar.core.config.base import validate
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.data import batches
from cyclevar.core.errors import CyclevarError
from cyclevar.core.networks.feature_net import load_feature_net
from cyclevar.core.training import launch as start
from cyclevar.core.training.tasks import translator as trainer


class Notes:
    """A display that writes what is noted into a file, line by line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        self._file.write(f"{step}/{steps}\n")

    def note(self, text: str) -> None:
        self._file.write(f"{text}\n")


def poisoned(steps: set[int]) -> None:
    """Let the gradients of these steps be no numbers."""
    update = trainer.TranslatorTask.update

    def wrong(task: trainer.TranslatorTask, step: int) -> Mapping[str, float]:
        if step not in steps:
            return update(task, step)
        parameter = next(p for p in task.model.translates.parameters() if p.requires_grad)
        hook = parameter.register_hook(lambda gradient: gradient * math.nan)
        try:
            return update(task, step)
        finally:
            hook.remove()

    trainer.TranslatorTask.update = wrong  # type: ignore[method-assign]


def work(order: Mapping[str, Any], notes: Path) -> int:
    """Train as `cyclevar train --resume auto --out OUT` does; the exit code."""
    if "file_limit" in order:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], order["file_limit"]))
    poisoned(set(order.get("poison", ())))
    if order.get("uncached"):
        batches.CACHE_BYTES = 0
    out, display = Path(order["out"]), Notes(notes)
    try:
        config = validate(TrainConfig, order["config"])
        start.train(config, out, resume=(out / "config.yaml").exists(), display=display, device="cpu")
    except CyclevarError as error:
        display.note(f"error: {error}")
        return error.exit_code
    except Exception:
        display.note(traceback.format_exc())
        return 1
    return 0


def main() -> None:
    torch.set_num_threads(1)
    net = load_feature_net(input_size=32)
    trainer.REFERENCE = 8
    start.load_feature_net = lambda **settings: net
    for line in sys.stdin:
        order = json.loads(line)
        notes = Path(order["notes"])
        child = os.fork()
        if child == 0:
            os._exit(work(order, notes))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
