"""One of two processes that train together is killed: the other ends soon, says so, and the run goes on exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from cyclevar.core.weights.checkpoints import load_tensors

QUICK = """
loop: {steps: 10, log_every: 1, validate_every: 100, sample_every: 100, save_every: 2, keep: 9}
batch_size: 2
warmup: {steps: 2}
loss: {perceptual: 0}
discriminator: {settings: {width: 8}, pretrain_steps: 2}
"""


def launch(folder: Path, pictures: Path, model: Path, out: str, port: int, *more: str) -> list[subprocess.Popen[str]]:
    """Two processes of ``cyclevar train``, as a launcher starts them; the first speaks and writes."""
    (folder / "quick.yaml").write_text(QUICK)
    command = [sys.executable, "-m", "cyclevar.cli.main", "train", "--config", "quick.yaml", "--device", "cpu"]
    command += ["--data", str(pictures), "--weights", str(model), "--targets", "0", "1", "--out", out, *more]
    team = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **team, "RANK": str(number), "LOCAL_RANK": str(number), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]


def states(run: Path) -> Mapping[str, Mapping[str, torch.Tensor]]:
    return {path.name: load_tensors(path)[0] for path in (run / "checkpoints").glob("step-*.safetensors")}


def until(started: subprocess.Popen[str], text: str) -> None:
    assert started.stdout is not None
    for line in started.stdout:
        if text in line:
            return
    pytest.fail(f"it never said {text}: {started.communicate()}")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_is_killed(
    pictures: Path, small_translator: Path, tmp_path: Path, free_port: int, victim: int
) -> None:
    whole = launch(tmp_path, pictures, small_translator, "whole", free_port)
    printed = [one.communicate(timeout=300) for one in whole]
    assert [one.returncode for one in whole] == [0, 0], printed
    cut = launch(tmp_path, pictures, small_translator, "cut", free_port)
    until(cut[0], "5/10:")
    cut[victim].kill()
    begun = time.monotonic()
    _, err = cut[1 - victim].communicate(timeout=60)
    assert time.monotonic() - begun < 30
    assert cut[1 - victim].returncode == 1
    assert "another process of this training is gone" in err
    assert "start all of them again with --resume auto" in err
    cut[victim].communicate()
    kept = states(tmp_path / "cut")
    assert {"step-00000002.safetensors", "step-00000004.safetensors"} <= kept.keys()
    again = launch(tmp_path, pictures, small_translator, "cut", free_port, "--resume", "auto")
    printed = [one.communicate(timeout=300) for one in again]
    assert [one.returncode for one in again] == [0, 0], printed
    assert "resumed after " in printed[0][0]
    one, other = states(tmp_path / "whole"), states(tmp_path / "cut")
    assert one.keys() == other.keys()
    for name, tensors in one.items():
        assert [key for key, value in tensors.items() if not torch.equal(value, other[name][key])] == [], name


@pytest.mark.slow
def test_a_signal_to_one_stops_all(pictures: Path, small_translator: Path, tmp_path: Path, free_port: int) -> None:
    started = launch(tmp_path, pictures, small_translator, "run", free_port, "--steps", "100000")
    until(started[0], "5/100000:")
    started[1].send_signal(signal.SIGTERM)
    printed = [one.communicate(timeout=120) for one in started]
    assert [one.returncode for one in started] == [143, 143], printed
    assert "stopped by SIGTERM after" in printed[0][1]
    assert printed[1][0] == ""  # only the leading process speaks
    assert states(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_launchers(pictures: Path, small_translator: Path, tmp_path: Path, free_port: int, launcher: str) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK)
    programs = Path(sys.executable).parent
    begin = {
        "torchrun": [programs / "torchrun", "--nproc-per-node", "2", "--master-port", free_port],
        "accelerate": [
            programs / "accelerate",
            "launch",
            "--cpu",
            "--num_processes",
            "2",
            "--main_process_port",
            free_port,
        ],
    }[launcher]
    train = ["-m", "cyclevar.cli.main", "train", "--config", "quick.yaml", "--device", "cpu", "--out", "run"]
    train += ["--data", pictures, "--weights", small_translator, "--targets", "0", "1"]
    done = subprocess.run(
        [str(word) for word in (*begin, *train)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("10/10:") == done.stdout.count("run holds the translator") == 1
    assert (tmp_path / "run" / "translator.json").is_file()
