"""A sharded translation that is killed and started again makes what one that was never killed makes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclevar.core.pipelines.sharding import plan_translation
from cyclevar.core.pipelines.translator import Translator


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for seed in range(60):
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{seed:03d}.png")
    return tmp_path / "in"


def survive(source: Path, out: Path, model: Path, kills: int, *options: str) -> None:
    """Start one of two shards until it ends by itself, killing it ``kills`` times on the way at a random moment."""
    command = [sys.executable, "-m", "cyclevar.cli.main", "translate", source, out, "--to", "fluent", "--shard", "1/2"]
    command = [*map(str, command), "--batch", "1", "--device", "cpu", "--model", str(model), *options]
    manifest, chance = out / "manifest-1-of-2.jsonl", random.Random(0)
    for _ in range(kills):
        before = len(manifest.read_text().splitlines()) if manifest.exists() else 0
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while started.poll() is None and (not manifest.exists() or len(manifest.read_text().splitlines()) < before + 3):
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        started.kill()
        assert started.wait() == -signal.SIGKILL, "it ended before it could be killed"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "already there" in done.stdout


def outputs(folder: Path, pattern: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob(pattern)}


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_killed_and_started_again(source: Path, small_translator: Path, tmp_path: Path, kills: int) -> None:
    survive(source, tmp_path / "out", small_translator, kills)
    plan = plan_translation(source, tmp_path / "whole", shard="1/2")
    list(plan.translate(Translator.load(small_translator).for_inference(), small_translator, "fluent", batch_size=1))
    made = outputs(tmp_path / "out", "*.png")
    assert made == outputs(tmp_path / "whole", "*.png")
    assert len(made) == 30
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest-1-of-2.jsonl").read_text().splitlines()[1:]]
    assert {line["status"] for line in lines} == {"translated"}
    names = [line["output"] for line in lines]
    assert len(names) - len(set(names)) <= kills
    assert len(set(names)) >= 30 - kills


@pytest.mark.slow
def test_archives_are_whole_or_absent(source: Path, small_translator: Path, tmp_path: Path) -> None:
    options = ["--format", "wds", "--per-archive", "3"]
    survive(source, tmp_path / "out", small_translator, 2, *options)
    plan = plan_translation(source, tmp_path / "whole", kind="wds", per_archive=3, shard="1/2")
    list(plan.translate(Translator.load(small_translator).for_inference(), small_translator, "fluent", batch_size=1))
    assert outputs(tmp_path / "out", "*.tar") == outputs(tmp_path / "whole", "*.tar")
