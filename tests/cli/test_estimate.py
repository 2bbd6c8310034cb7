"""``cyclevar estimate``, and the commands that tell it where memory runs out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclevar.cli.main import main
from cyclevar.core.bench.config import BenchConfig, training_settings
from cyclevar.core.bench.worker import Worker
from cyclevar.core.diagnostics.memory_estimate import Estimate
from cyclevar.core.errors import MemoryShortageError
from cyclevar.core.models.model import build
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.training import launch as start

SHORTAGE = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40000000000 bytes.\nat ...")


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--preset", "tiny", "--batch", "3"]) == 0
    printed = capsys.readouterr().out
    assert "translating 3 pictures at once: 0.0" in printed
    assert "activations: backbone" in printed
    assert "Less memory: --batch 1." in printed
    assert "`translate` on a CPU rearranges the weights first, and may take 0.02 GB more." in printed
    assert main(["estimate", "--mode", "serial", "--preset", "tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == {"tokenizer": 1510368, "backbone": 2322868}
    assert found["peak_bytes"] == sum(found["memory"].values())


def test_options_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[BenchConfig] = []

    def record(config: BenchConfig) -> Estimate:
        asked.append(config)
        return Estimate(
            cyclevar="0",
            what="nothing",
            parameters={},
            trained=0,
            memory={},
            peak_bytes=0,
            validation_bytes=0,
            savings=(),
        )

    monkeypatch.setattr("cyclevar.core.diagnostics.memory_estimate.estimate", record)
    options = ["--batch", "2", "--chunk", "1", "--checkpointing", "--precision", "bf16", "--lora-rank", "8"]
    assert main(["estimate", "--mode", "train", "--preset", "tiny", *options, "--set", "loss.cycle=0"]) == 0
    settings = training_settings(asked[0])
    assert (settings.batch_size, settings.objective.chunk, settings.gradient_checkpointing) == (2, 1, True)
    assert (settings.precision, settings.lora.rank, settings.loss.cycle) == ("bf16", 8, 0)
    assert asked[0].mode == "train"


def parameters(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, int]:
    """The numbers of parameters that the command prints."""
    assert main(["estimate", "--json", *arguments]) == 0
    found: dict[str, int] = json.loads(capsys.readouterr().out)["parameters"]
    return found


@pytest.mark.parametrize("mode", ["translate", "train"])
def test_settings_of_the_model_are_followed(capsys: pytest.CaptureFixture[str], mode: str) -> None:
    """They change the model that is estimated as they change the one that is trained."""
    tiny = build("var", "tiny", initialize=False).backbone
    usual = parameters(capsys, "--mode", mode, "--preset", "tiny")
    assert usual["backbone"] == sum(one.numel() for one in tiny.parameters())
    small = build("var", "tiny", initialize=False, backbone={"depth": 2}, schedule="1-2-4")
    found = parameters(
        capsys, "--mode", mode, "--preset", "tiny", "--set", "model.backbone.depth=2", "--set", "model.schedule=1-2-4"
    )
    assert found["backbone"] == sum(one.numel() for one in small.backbone.parameters()) < usual["backbone"]
    other = build("flexvar", "tiny", initialize=False).backbone
    found = parameters(capsys, "--mode", mode, "--set", "backbone=flexvar", "--set", "preset=tiny")
    assert found["backbone"] == sum(one.numel() for one in other.parameters())


def test_weights_by_name_are_the_model_that_is_estimated(capsys: pytest.CaptureFixture[str]) -> None:
    d16 = build("var", "d16", initialize=False).backbone
    for more in ([], ["--preset", "tiny"]):
        found = parameters(capsys, "--mode", "train", "--set", "weights=var/d16", "--set", "lora.rank=1", *more)
        assert found["backbone"] == sum(one.numel() for one in d16.parameters())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--preset", "tiny", "--set", "loss.cycle=0"], "loss is a setting of a training; expected --mode train"),
        (["--preset", "tiny", "--set", "model.backbone.depht=2"], "depht"),
        (["--mode", "train", "--set", "backbone=vra"], "vra"),
        (["--mode", "paralel"], "paralel"),
        (["--preset", "d17"], "d17"),
        (["--backbone", "vra"], "vra"),
        (["--precision", "fp8", "--preset", "tiny"], "dtype"),
        (["--size", "100", "--preset", "tiny"], "100x100"),
        (["--mode", "train", "--preset", "tiny", "--set", "objective.order=jiont"], "objective.order"),
    ],
)
def test_bad_input(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cyclevar: error: ")
    assert problem in error


def test_a_training_that_does_not_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*given: Any) -> None:
        raise SHORTAGE

    monkeypatch.setattr(start, "run", fail)
    out = tmp_path / "run"
    settings = ["loss.cycle=0", "loss.identity=0", "discriminator.settings.augment=[]", "batch_size=2"]
    options = [word for setting in settings for word in ("--set", setting)]
    assert main(["train", "--out", str(out), "--device", "cpu", *options]) == 2
    error = capsys.readouterr().err
    assert "there is too little memory (DefaultCPUAllocator: can't allocate memory" in error
    assert "GB for training on 2 pictures of each domain in an update, besides the process itself" in error
    assert "--set objective.chunk=1, --set gradient_checkpointing=true" in error
    assert not out.exists()


def test_a_translation_that_does_not_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_translator: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(source / f"{number}.png")
    translate, calls = Translator.__call__, []

    def fail_later(self: Translator, *given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise SHORTAGE
        return translate(self, *given, **more)

    monkeypatch.setattr(Translator, "__call__", fail_later)
    options = ["--model", str(small_translator), "--device", "cpu", "--batch", "2"]
    assert main(["translate", str(source), str(out), *options]) == 2
    error = capsys.readouterr().err
    assert "GB for translating 2 pictures at once, besides the process itself; try --batch 1." in error
    left = sorted(path.name for path in out.rglob("*") if path.is_file() and path.suffix not in (".json", ".jsonl"))
    assert left == ["0.png", "1.png"]
    for name in left:
        with Image.open(out / name) as picture:
            assert np.asarray(picture).shape == (16, 16, 3)


def test_a_bench_that_does_not_fit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(self: Worker, question: str) -> Any:
        raise MemoryShortageError("the timed process ended by itself (exit code -9)")

    monkeypatch.setattr(Worker, "ask", ask)
    assert main(["bench", "--preset", "tiny", "--batch", "64", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "ended by itself (exit code -9); expected 0.9 GB for translating 64 pictures at once" in error


@pytest.mark.slow
def test_a_training_that_really_does_not_fit(tmp_path: Path) -> None:
    limit = 12 * 10**9
    code = f"""
import resource, sys
from cyclevar.cli.main import main
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
sys.exit(main(["train", "--device", "cpu", "--batch-size", "256", "--set", "warmup.steps=0", "--out", "run"]))
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "there is too little memory" in done.stderr
    assert "GB for training on 256 pictures of each domain" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.cuda
def test_a_pass_that_does_not_fit_on_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        arguments = ["train", "--device", "cuda", "--batch-size", "512", "--set", "warmup.steps=0", "--out"]
        assert main([*arguments, "run-that-does-not-fit"]) == 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "GB for training on 512 pictures of each domain" in capsys.readouterr().err
    assert not Path("run-that-does-not-fit").exists()


def test_a_command_without_an_estimate_says_it_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*given: Any, **more: Any) -> None:
        raise SHORTAGE

    monkeypatch.setattr("cyclevar.core.training.launch.pretrain", fail)
    assert main(["pretrain", "--stage", "tokenizer", "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cyclevar: error: there is too little memory (DefaultCPUAllocator")
    assert error.endswith("; try a smaller batch.\n")


IN_LITTLE_MEMORY = """
import sys
from types import SimpleNamespace
import psutil
psutil.virtual_memory = lambda: SimpleNamespace(available=2_800_000_000)
psutil.swap_memory = lambda: SimpleNamespace(free=0)
from cyclevar.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["generate", "--batch", "100000", "--count", "100000"], "for drawing 100000 pictures at once"),
        (["train", "--batch-size", "64"], "for training on 64 pictures of each domain in an update"),
        (["bench", "--preset", "tiny", "--batch", "1000000"], "for translating 1000000 pictures at once"),
    ],
)
def test_memory_that_runs_out_for_real(arguments: list[str], needed: str, tmp_path: Path) -> None:
    out = [] if arguments[0] == "bench" else ["--out", "out"]
    command = [sys.executable, "-c", IN_LITTLE_MEMORY, *arguments, *out, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "error: there is too little memory" in done.stderr
    assert needed in done.stderr
    assert list(tmp_path.rglob("*.*")) == []
