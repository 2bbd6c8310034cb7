"""Trainings in processes of their own, to be killed and otherwise hurt."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclevar.core.training.run_folder import RunFolder
from cyclevar.core.weights.checkpoints import load_tensors

SPEEDS = {"images_per_second", "data_wait", "memory_gb"}


class Trainers:
    """Starts trainings in processes forked from one that has imported everything."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name("server.py"))]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment, cwd=folder
        )

    def start(self, out: Path, config: Mapping[str, Any], **faults: Any) -> Started:
        """Begin or go on with the training in ``out``."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._count += 1
        notes = self._folder / f"notes-{self._count}.txt"
        order = {"out": str(out), "config": config, "notes": str(notes), **faults}
        self._server.stdin.write(json.dumps(order) + "\n")
        return Started(int(self._server.stdout.readline()), notes, self._server)

    def run(self, out: Path, config: Mapping[str, Any], **faults: Any) -> tuple[int, str]:
        """The exit code and the notes of a training that is left alone."""
        return self.start(out, config, **faults).wait()

    def stop_after(self, steps: int, out: Path, config: Mapping[str, Any]) -> None:
        """Leave a training as a kill after that many steps does, but without having to hit the moment."""
        code, notes = self.run(out, config, poison=[steps])
        assert code == 2, notes
        shutil.rmtree(out / "failures")

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()


@dataclass
class Started:
    """A training that was started."""

    process: int
    notes: Path
    server: subprocess.Popen[str]

    def wait_until(self, text: str, seconds: float = 60) -> None:
        """Return once its notes say ``text``."""
        last = time.monotonic() + seconds
        while text not in (self.notes.read_text() if self.notes.exists() else ""):
            assert time.monotonic() < last, f"{text!r} was never said"
            time.sleep(0.001)

    def wait(self) -> tuple[int, str]:
        """Exit code (negative for the signal that ended it) and notes."""
        assert self.server.stdout is not None
        code = int(self.server.stdout.readline())
        return code, self.notes.read_text() if self.notes.exists() else ""

    def kill_after(self, seconds: float, number: int = signal.SIGKILL) -> tuple[int, str]:
        """The same, sent a signal after that time, unless it has ended before."""
        timer = threading.Timer(seconds, self.send, [number])
        timer.start()
        try:
            return self.wait()
        finally:
            timer.cancel()
            timer.join()

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, number)


@pytest.fixture(scope="session")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainers]:
    started = Trainers(tmp_path_factory.mktemp("trainers"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def pictures(shapes: Path) -> Path:
    """40 discs and 40 squares, 16 px; not to be changed."""
    return shapes


@pytest.fixture(scope="session")
def config(pictures: Path, small_translator: Path) -> dict[str, Any]:
    """All stages of a translator's training in a few steps of some milliseconds, each of them saved."""
    return {
        "weights": str(small_translator),
        "targets": [0, 1],
        "data": {"source": str(pictures)},
        "loop": {"steps": 10, "log_every": 1, "validate_every": 5, "sample_every": 5, "save_every": 1},
        "batch_size": 1,
        "accumulate": 2,
        "warmup": {"steps": 2},
        "loss": {"perceptual": 0},
        "discriminator": {"settings": {"width": 8}, "pretrain_steps": 2, "pool": 8},
    }


@pytest.fixture(scope="session")
def whole(trainers: Trainers, config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, notes = trainers.run(out, config)
    assert code == 0, notes
    return out


class Helpers:
    """What tests ask of run folders."""

    @staticmethod
    def longer(config: Mapping[str, Any], **loop: Any) -> dict[str, Any]:
        """The settings with others for the loop."""
        return {**config, "loop": {**config["loop"], **loop}}

    @staticmethod
    def differences(one: Path, other: Path) -> list[str]:
        """What is not the same, bit for bit, in two finished runs: states, translators, figures."""
        found = []
        for kind in ("state", "model"):
            a, b = (Helpers._tensors(run, kind) for run in (one, other))
            found += [f"{kind} {name}" for name in a.keys() ^ b.keys()]
            found += [f"{kind} {name}" for name in a.keys() & b.keys() if not torch.equal(a[name], b[name])]
        if Helpers._figures(one) != Helpers._figures(other):
            found.append("metrics")
        return sorted(found)

    @staticmethod
    def _tensors(run: Path, kind: str) -> dict[str, Tensor]:
        return load_tensors(RunFolder(run).saved()[-1] if kind == "state" else run / "model.safetensors")[0]

    @staticmethod
    def _figures(run: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key not in SPEEDS} for line in lines]

    @staticmethod
    def newest(run: Path) -> int:
        """The newest checkpoint that is there, whole and as the manifest has it; 0 for none."""
        folder = RunFolder(run)
        saved = folder.saved()
        if not saved:
            return 0
        assert folder.manifest.flaw(saved[-1]) is None
        _, metadata = load_tensors(saved[-1])
        return int(metadata["step"])


@pytest.fixture(scope="session")
def helpers() -> type[Helpers]:
    return Helpers
