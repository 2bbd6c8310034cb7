"""``cyclevar models``: the list, as text and as JSON, without torch; fetching."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cyclevar.cli.main import main
from cyclevar.core.weights.hub import FOLDERS

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def models(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command where one published file is on the disk; gives exit code, output and errors."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(FOLDERS, str(tmp_path))
    (tmp_path / "var_d16.pth").touch()

    def run(*arguments: str) -> tuple[int, str, str]:
        return main(["models", *arguments]), *capsys.readouterr()

    return run


def test_the_list(models: Run, tmp_path: Path) -> None:
    code, printed, errors = models()
    assert (code, errors) == (0, "")
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line}
    assert rows["var/tiny"][1:] == ["1.51M", "2.32M", "64x64", "4", "shipped", "noto,", "fluent", "1-2-3-4-6-8-12-16"]
    assert rows["var/d30"][1:8] == ["109M", "2.01B", "256x256", "16", "to", "fetch", "class"]
    assert f"{tmp_path / 'var_d16.pth'} (CYCLEVAR_MODELS)" in printed
    [line] = [line for line in printed.splitlines() if "var_d20.pth" in line]
    assert line.split() == ["FoundationVision/var:", "var_d20.pth", "var/d20", "MIT", "-"]


def test_as_json(models: Run, tmp_path: Path) -> None:
    code, printed, _ = models("--json")
    assert code == 0
    listing = json.loads(printed)
    [d16] = [model for model in listing["models"] if model["name"] == "var/d16"]
    assert d16["parameters"] == {"tokenizer": 108_948_355, "backbone": 310_283_520}
    assert (d16["size"], d16["stride"], d16["ready"], d16["licences"]) == ([256, 256], 16, False, ["MIT"])
    files = {file["name"]: file for file in listing["files"]}
    assert files["var_d16.pth"]["path"] == str(tmp_path / "var_d16.pth")
    assert files["vae_ch160v4096z32.pth"]["path"] is None


def test_listing_imports_no_torch() -> None:
    code = "import sys; from cyclevar.cli.main import main; main(['models']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_fetching_what_is_here(models: Run, tmp_path: Path) -> None:
    code, printed, _ = models("fetch", "var_d16.pth")
    path = tmp_path / "var_d16.pth"
    assert (code, printed) == (0, f"{path}: was there (not verified: no SHA-256 is known; licence MIT)\n")


def test_fetching_what_nobody_published(models: Run) -> None:
    code, printed, errors = models("fetch", "var/d61")
    assert (code, printed, errors.count("\n")) == (2, "", 1)
    assert "there is no published model named 'var/d61'" in errors
