"""The script that checks a GPU, with stand-ins for what it starts, and its summary of what was timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def timed(milliseconds: float, **changes: Any) -> dict[str, Any]:
    """What ``cyclevar bench --json`` prints, as far as it is read."""
    seconds = {"median": milliseconds / 1e3, "low": milliseconds / 1e3, "high": milliseconds / 1e3}
    result = {"total": {"seconds": seconds}, "dtype": "bfloat16", "peak_bytes": 2e9, "attention": "xformers: asked for"}
    return result | {"speedup_over_plain": 1.5, "largest_difference": 0.01, "plain_peak_bytes": None} | changes


def summarize(root: Path, folder: Path, results: dict[str, dict[str, Any]]) -> tuple[int, str]:
    for name, result in results.items():
        (folder / f"{name}.txt").write_text(json.dumps(result), encoding="utf-8")
    (folder / "tests.txt").write_text("85 passed", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, root / "tools" / "gpu_summary.py", folder], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_best_variant_counts(root: Path, tmp_path: Path) -> None:
    results = {"parallel": timed(6), "parallel_compiled": timed(4), "serial": timed(11), "infinity": timed(29.5)}
    code, printed = summarize(root, tmp_path, results)
    assert code == 0
    assert "parallel: 6.00 ms (6.00 to 6.00); bfloat16; 2.0 GB; 1.50 times as fast as plain" in printed
    assert "goal parallel, 5 ms: 4.00 ms by parallel_compiled: reached" in printed
    assert "tests" not in printed


def test_what_is_missed_or_missing(root: Path, tmp_path: Path) -> None:
    train = timed(100, speedup_over_plain=None, largest_difference=None)
    code, printed = summarize(root, tmp_path, {"parallel": timed(4), "serial": timed(13), "train_d16": train})
    assert code == 1
    assert "goal serial, 12 ms: 13.00 ms by serial: MISSED" in printed
    assert "goal infinity, 30 ms: not timed: MISSED" in printed
    assert "train_d16: 100.00 ms (100.00 to 100.00); bfloat16; 2.0 GB; attention xformers: asked for" in printed


def test_estimates_stand_beside_what_was_measured(root: Path, tmp_path: Path) -> None:
    results = {
        "parallel": timed(4, plain_peak_bytes=2.5e9),
        "train_d16": timed(100, peak_bytes=8e9),
        "estimate_parallel": {"peak_bytes": 3e9},
        "estimate_train_d16": {"peak_bytes": 7.2e9},
        "estimate_serial": {"peak_bytes": 1e9},
    }
    _, printed = summarize(root, tmp_path, results)
    assert "estimate_parallel: 3.00 GB estimated, 2.50 GB measured, +20%" in printed
    assert "estimate_train_d16: 7.20 GB estimated, 8.00 GB measured, -10%" in printed
    assert "estimate_serial: serial was not measured" in printed


class TestScript:
    """``python`` finds a GPU; ``pytest`` and ``cyclevar`` answer as they are told."""

    def run(
        self, root: Path, folder: Path, cyclevar: str, pytest: str = "exit 0", seconds: int = 60
    ) -> tuple[int, str]:
        python = f'case "$1" in -c | tools/time_attention.py) exit 0 ;; *) exec {sys.executable} "$@" ;; esac'
        (folder / "bin").mkdir()
        (folder / "answer.json").write_text(json.dumps(timed(4)), encoding="utf-8")
        for name, lines in {"python": python, "pytest": pytest, "cyclevar": cyclevar}.items():
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
            (folder / "bin" / name).chmod(0o755)
        done = subprocess.run(
            ["sh", root / "tools" / "gpu_check.sh", folder / "out"],
            cwd=root,
            env={**os.environ, "BIN": str(folder / "bin"), "SECONDS_IN_ALL": str(seconds)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    def test_all_well(self, root: Path, tmp_path: Path) -> None:
        code, printed = self.run(root, tmp_path, f"cat {tmp_path / 'answer.json'}")
        assert code == 0, printed
        assert "FAILED" not in printed
        assert printed.count(": reached") == 3

    def test_what_fails_is_named_and_the_rest_goes_on(self, root: Path, tmp_path: Path) -> None:
        answer = f'case "$*" in *serial*) exit 3 ;; *) cat {tmp_path / "answer.json"} ;; esac'
        code, printed = self.run(root, tmp_path, answer, pytest="exit 1")
        assert code == 1
        assert [name for name in ("tests", "serial", "serial_compiled") if f"== {name}: FAILED" in printed] == [
            "tests",
            "serial",
            "serial_compiled",
        ]
        assert "goal serial, 12 ms: not timed: MISSED" in printed
        assert "goal infinity, 30 ms: 4.00 ms by infinity: reached" in printed

    def test_it_ends_in_time(self, root: Path, tmp_path: Path) -> None:
        code, printed = self.run(root, tmp_path, "exec sleep 60", seconds=5)
        assert code == 1
        assert "== parallel: left out, the time is over" in printed
