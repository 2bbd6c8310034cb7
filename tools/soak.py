"""Trains the tiny model for a set time, and tells whether memory and open files stay as they are.

    OMP_NUM_THREADS=1 python tools/soak.py [--minutes 120] [--settle 0.25] [--set KEY=VALUE ...]

Resident memory and file descriptors are looked at after every logged step, and written to OUT/soak.jsonl. The first
part of the time, while pictures are being cached and every part of the loop runs for the first time, is left out.
Exits with 1 where the rest is not flat: the medians of its first and its last third differ by more than 2 %.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclevar.core.config.training import TrainConfig
from cyclevar.core.runtime.allocator import keep_freed_memory
from cyclevar.core.training.loop import StoppedError
from cyclevar.core.training.resolve import prepare

MEGABYTES = "resident, MB"
FILES = "open files"


class Watch:
    """A display that looks at its process, and ends it in time."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._file, self._begun, self._seconds = path.open("w", buffering=1), time.monotonic(), seconds
        self.lines: list[dict[str, float]] = []
        self._ended = False

    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        line = {
            "step": step,
            "seconds": round(time.monotonic() - self._begun, 1),
            MEGABYTES: pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
            FILES: len(list(Path("/proc/self/fd").iterdir())),
        }
        self.lines.append(line)
        self._file.write(json.dumps(line) + "\n")
        if line["seconds"] >= self._seconds and not self._ended:  # a second signal would end it at once
            self._ended = True
            os.kill(os.getpid(), signal.SIGTERM)

    def note(self, text: str) -> None:
        print(text, flush=True)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=120)
    arguments.add_argument("--settle", type=float, default=0.25, help="share of the time that is left out")
    arguments.add_argument("--out", type=Path, help="keep the run here")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = arguments.parse_args()
    keep_freed_memory()
    from cyclevar.core.training.launch import train

    often = ["log_every=5", "validate_every=50", "sample_every=50", "save_every=25", "steps=100000000"]
    with tempfile.TemporaryDirectory() as temporary:
        out = given.out or Path(temporary) / "run"
        config = prepare(TrainConfig, {}, overrides=[*(f"loop.{one}" for one in often), *given.set], out=out).config
        out.parent.mkdir(parents=True, exist_ok=True)
        watch = Watch(out.with_suffix(".jsonl"), given.minutes * 60)
        try:
            train(config, out, resume=False, display=watch, device="cpu")
        except StoppedError as stopped:
            print(stopped)
    settled = [line for line in watch.lines if line["seconds"] >= given.settle * given.minutes * 60]
    if len(settled) < 3:
        print("it ended before there was anything to compare")
        return 1
    third, flat = len(settled) // 3, True
    end = watch.lines[-1]
    print(f"{end['step']} steps in {end['seconds'] / 60:.1f} minutes, looked at {len(settled)} times")
    for name in (MEGABYTES, FILES):
        first, last = (statistics.median(line[name] for line in part) for part in (settled[:third], settled[-third:]))
        values = [line[name] for line in settled]
        print(f"{name}: {first:.1f} -> {last:.1f} ({last / first - 1:+.2%}), {min(values):.1f} to {max(values):.1f}")
        flat &= abs(last / first - 1) <= 0.02
    print("flat within 2 %" if flat else "NOT flat within 2 %")
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
