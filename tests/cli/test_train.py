"""``cyclevar train`` as a user meets it, and how progress is shown."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from cyclevar.cli import _display
from cyclevar.cli._display import LiveDisplay, PlainDisplay, display
from cyclevar.cli.main import main
from cyclevar.core.config.base import validate
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.weights.checkpoints import load_tensors, save_tensors

Run = Callable[..., tuple[int, str, str]]

QUICK = """
loop: {steps: 8, log_every: 2, validate_every: 8, sample_every: 8, save_every: 2}
batch_size: 1
warmup: {steps: 2}
loss: {perceptual: 0}
discriminator: {settings: {width: 8}, pretrain_steps: 2}
"""
"""Settings that go through all stages at once."""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs ``cyclevar train`` in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["train", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def pictures(shapes: Path, tmp_path: Path) -> Path:
    """40 discs and 40 squares, 16 px, in the folder where the command runs."""
    return Path(shutil.copytree(shapes, tmp_path / "pictures"))


def settings_of(printed: str) -> TrainConfig:
    return validate(TrainConfig, yaml.safe_load(printed))


def test_a_dry_run_prints_complete_settings_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    code, out, err = run("--dry-run")
    assert (code, err) == (0, "")
    assert out.startswith("# would write runs/var-tiny-emoji-1\nrecipe: default\nbackbone: var\n")
    assert settings_of(out) == TrainConfig()
    assert list(tmp_path.iterdir()) == []


def test_every_option_has_its_setting(run: Run, tmp_path: Path) -> None:
    options = {
        "--backbone": "var",
        "--preset": "d16",
        "--data": "a",
        "--data-b": "b",
        "--size": 256,
        "--weights": "w",
        "--tokenizer-weights": "t",
        "--backbone-weights": "u",
        "--steps": 9,
        "--keep": 4,
        "--batch-size": 3,
        "--discriminator": "patchgan",
        "--seed": 5,
        "--out": "mine",
    }
    words = [word for pair in options.items() for word in pair]
    code, out, err = run(*words, "--targets", "340", "horse", "--set", "loss.gan=2", "--set", "ema=0.5", "--dry-run")
    assert code == 2
    assert "the folder a does not exist" in err
    assert out.startswith("# would write mine\n")
    config = settings_of(out)
    assert (config.preset, config.data.source, config.data.other, config.data.size) == ("d16", "a", "b", 256)
    assert (config.weights, config.tokenizer_weights, config.backbone_weights) == ("w", "t", "u")
    assert (config.loop.steps, config.loop.keep, config.batch_size, config.seed) == (9, 4, 3, 5)
    assert (config.discriminator.name, config.targets) == ("patchgan", (340, "horse"))
    assert (config.loss.gan, config.ema) == (2.0, 0.5)


def test_weights_by_name_bring_their_preset(run: Run) -> None:
    code, out, err = run("--weights", "var/d20", "--dry-run")
    assert out.startswith("# would write runs/var-d20-emoji-1\n")
    assert (settings_of(out).backbone, settings_of(out).preset) == ("var", "d20")
    assert code == 2
    assert "vae_ch160v4096z32.pth is not on this disk" in err
    code, out, err = run("--weights", "flexvar/d16", "--dry-run")
    assert (settings_of(out).backbone, settings_of(out).preset) == ("flexvar", "d16")
    code, out, err = run("--weights", "var/d20", "--preset", "d16", "--dry-run")
    assert (code, out) == (2, "")
    assert "preset is d16, but weights is var/d20; expected preset d20; leave out one of the two." in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "the folder nowhere does not exist"),
        (["--data", "few"], "few has too few images: "),
        (["--weights", "nowhere"], "nowhere is not a file"),
        (["--weights", "garbage.safetensors"], "garbage.safetensors is damaged or not a safetensors file"),
        (["--weights", "plain.safetensors"], "plain.safetensors does not say which family it belongs to"),
        (["--weights", "small", "--backbone", "flexvar"], "belongs to the backbone var; expected flexvar"),
        (["--weights", "small", "--size", "64"], "data.size is 64; expected 16, the side that this model is made for"),
        (["--weights", "small", "--set", "model.schedule=1-2"], "the settings under model (schedule) are given beside"),
        (
            ["--weights", "other.safetensors"],
            "other.safetensors does not fit the model: wrong shapes: backbone.head.bias",
        ),
        (["--tokenizer-weights", "a.pth", "--backbone-weights", "b.pth"], "a.pth is not a file"),
        (["--tokenizer-weights", "a.pth"], "published weights are given for one part only"),
        (["--backbone", "cyclegan", "--size", "128"], "data.size is 128; expected 64"),
    ],
)
def test_a_dry_run_looks_at_what_it_names(
    run: Run, small_translator: Path, pictures: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "small").symlink_to(small_translator)
    for name in ("discs", "squares"):
        (tmp_path / "few" / name).mkdir(parents=True)
        for path in sorted((pictures / name).iterdir())[:12]:
            shutil.copy(path, tmp_path / "few" / name)
    (tmp_path / "garbage.safetensors").write_bytes(b"no weights")
    tensors, metadata = load_tensors(small_translator / "model.safetensors")
    save_tensors(tmp_path / "plain.safetensors", tensors)
    tensors["backbone.head.bias"] = torch.zeros(3)
    save_tensors(tmp_path / "other.safetensors", tensors, metadata)
    code, out, err = run(*arguments, "--dry-run")
    assert code == 2
    assert settings_of(out)
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_of_what_is_there_says_nothing_else(run: Run, small_translator: Path, pictures: Path) -> None:
    for arguments in (["--data", "pictures", "--weights", small_translator], ["--backbone", "cyclegan"]):
        code, _, err = run(*arguments, "--dry-run")
        assert (code, err) == (0, "")


def test_printed_settings_can_be_read_back(run: Run) -> None:
    _, out, _ = run("--steps", 7, "--set", "loss.gan=2", "--dry-run")
    Path("settings.yaml").write_text(out)
    assert run("--config", "settings.yaml", "--dry-run") == (0, out, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "tny"], "there is no preset of var named 'tny'"),
        (["--set", "loss.gann=1"], "did you mean 'loss.gan'?"),
        (["--set", "loss.gan"], "expected KEY=VALUE"),
        (["--steps", "0"], "loop.steps is 0"),
        (["--steps", "many"], "should be a valid integer"),
        (["--config", "none.yaml"], "cannot read none.yaml"),
        (["--resume", "nowhere"], "there is no run in nowhere"),
        (["--data", "nowhere", "--device", "cpu"], "the folder nowhere does not exist"),
        (["--device", "gpu"], "no device named 'gpu'"),
        (["--weights", "nowhere", "--device", "cpu"], "nowhere is not a file"),
        (["--preset", "d16", "--device", "cpu"], "vae_ch160v4096z32.pth is not on this disk"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert err.startswith("cyclevar: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_from_pictures_to_a_translator(run: Run, small_translator: Path, pictures: Path) -> None:
    Path("quick.yaml").write_text(QUICK)
    options = ["--data", "pictures", "--weights", small_translator, "--targets", "0", "1", "--config", "quick.yaml"]
    code, out, err = run(*options, "--device", "cpu", "--steps", 6)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    folder = "runs/var-tiny-pictures-1"
    assert f"writing {folder}" in lines
    assert [line.split(":")[0] for line in lines if "images/s" in line] == ["2/6", "4/6", "6/6"]
    assert lines[-3:] == [
        f"{folder} holds the translator, its metrics.jsonl and samples/. Next:",
        f"  cyclevar translate PICTURES OUT --model {folder}",
        f"  cyclevar evaluate --model {folder}",
    ]
    assert Path(folder, "translator.json").is_file()

    code, out, err = run("--resume", "auto", "--device", "cpu")
    assert (code, err) == (0, "")
    assert f"going on with {folder}" in out.splitlines()
    assert "resumed after 6 of 6 steps" in out
    code, out, err = run("--resume", folder, "--steps", 8, "--device", "cpu")
    assert (code, err) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines() if "images/s" in line] == ["8/8"]
    code, _, err = run("--resume", "auto", "--batch-size", 2, "--device", "cpu")
    assert code == 2
    assert "batch_size was 1, is 2" in err
    code, _, err = run(*options, "--out", folder, "--device", "cpu")
    assert code == 2
    assert "already holds a run; go on with it by --resume auto" in err

    given = ["--resume", "auto", "--set", "loss.gan=2", "--steps", 10, "--device", "cpu"]
    code, _, err = run(*given, "--allow-change", "seed")
    assert code == 2
    assert "loss.gan was 1.0, is 2.0" in err
    assert "or accept the change by --allow-change loss.gan." in err
    code, _, err = run(*given, "--allow-change", "los")
    assert code == 2
    assert "no setting or fact named 'los'" in err
    code, _, err = run(*given, "--allow-change", "seed,loss")
    assert (code, err) == (0, "")
    last = json.loads(Path(folder, "starts.jsonl").read_text().splitlines()[-1])
    assert last["changed"] == {"loop.steps": [8, 10], "loss.gan": [1.0, 2.0]}


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_preempted_job_that_is_submitted_again_goes_on(
    small_translator: Path, pictures: Path, tmp_path: Path
) -> None:
    """By the very same command; tests/faults shows that it ends as if it had never stopped."""
    (tmp_path / "quick.yaml").write_text(QUICK)
    options = ["--data", pictures, "--weights", small_translator, "--targets", "0", "1", "--config", "quick.yaml"]
    options += ["--steps", "40", "--set", "loop.validate_every=99", "--keep", "1", "--device", "cpu", "--out", "mine"]

    def start() -> subprocess.Popen[str]:
        command = [*map(str, (Path(sys.executable).with_name("cyclevar"), "train", *options, "--resume", "auto"))]
        alone = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=tmp_path, text=True, env=alone, **pipes)

    started = start()
    assert started.stdout is not None
    for line in started.stdout:
        if "images/s" in line:
            break
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=300)
    assert started.returncode == 143
    assert err.startswith("cyclevar: error: stopped by SIGTERM after ")
    assert "; go on by --resume auto." in err
    assert err.count("\n") == 1
    [state] = (tmp_path / "mine/checkpoints").glob("step-*")
    reached = int(state.stem.removeprefix("step-"))
    assert reached < 40
    again = start()
    out, err = again.communicate(timeout=300)
    assert (again.returncode, err) == (0, "")
    assert f"resumed after {reached} of 40 steps" in out.splitlines()
    assert (tmp_path / "mine/checkpoints/step-00000040.safetensors").is_file()


VALUES = {"step": 3, "loss/gan": 0.51234, "images_per_second": 3.25, "data_wait": 0.02, "memory_gb": 1.234}


def test_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 110.0, 200.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    console = Console(file=io.StringIO(), width=20)
    with display(console) as shown:
        assert isinstance(shown, PlainDisplay)
        shown.note("a note [with brackets] that is longer than a line")
        for step in (10, 20, 1000):
            shown.show(step, 1000, VALUES)
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "a note [with brackets] that is longer than a line",
        "10/1000: loss/gan 0.5123; 3.2 images/s, 2% waiting for data, 1.2 GB; estimating",
        "20/1000: loss/gan 0.5123; 3.2 images/s, 2% waiting for data, 1.2 GB; 16 min 20 s left",
        "1000/1000: loss/gan 0.5123; 3.2 images/s, 2% waiting for data, 1.2 GB; done",
    ]


def test_a_live_table_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=110, force_terminal=True, color_system=None)
    with display(console) as shown:
        assert isinstance(shown, LiveDisplay)
        shown.show(3, 9, VALUES)
        shown.note("a note [with brackets]")
        shown.show(4, 9, {name: value for name, value in VALUES.items() if name != "loss/gan"} | {"loss/cycle": 1e-7})
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "a note [with brackets]" in printed
    last = printed[printed.rindex("step 4/9") :]
    assert "3.2 images/s, 2% waiting for data, 1.2 GB" in last
    assert "loss/gan" in last  # the latest figure stays until there is a newer one
    assert "0.5123" in last
    assert "1e-07" in last


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (3600 + 120 + 5, "1 h 02 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert _display._duration(seconds) == text


def test_any_figure_may_be_missing() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with display(console) as shown:
        shown.show(9, 9, {name: value for name, value in VALUES.items() if name != "loss/gan"})
    values: Any = console.file
    assert "done" in values.getvalue()
