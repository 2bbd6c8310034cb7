"""``cyclevar bench``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cyclevar.cli.main import main


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_table_json_and_comparison(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", "--mode", "parallel", "--preset", "tiny", "--rounds", "1", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "times as fast as the plain path" in printed
    assert "of ceiling" in printed
    assert main(["bench", "--preset", "tiny", "--rounds", "1", "--device", "cpu", "--plain", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["speedup_over_plain"] is None
    assert result["total"]["flop"] > 1e9
    path = tmp_path / "one.json"
    path.write_text(json.dumps(result))
    assert main(["bench", "--compare", str(path), str(path)]) == 0
    assert "1.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--mode", "paralel"], "paralel"),
        (["--preset", "d17"], "d17"),
        (["--backbone", "vra"], "vra"),
        (["--int8", "--plain"], "--int8"),
        (["--device", "cuda:77", "--preset", "tiny"], "cuda:77"),
        (["--attention", "flash", "--preset", "tiny"], "flash"),
        (["--sweep", "seize"], "seize"),
        (["--sweep", "batch", "--values", "1,x", "--preset", "tiny"], "1,x"),
        (["--compare", "a.json", "b.json"], "a.json"),
        (["--dtype", "fp8", "--preset", "tiny"], "dtype"),
    ],
)
def test_bad_input(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cyclevar: error: ")
    assert problem in error


def test_a_sweep_is_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "sweep.png"
    arguments = ["--preset", "tiny", "--rounds", "1", "--device", "cpu", "--sweep", "batch", "--values", "1,2"]
    assert main(["bench", *arguments, "--out", str(out)]) == 0
    assert f"drawn: {out}" in capsys.readouterr().out.replace("\n", "")
    assert out.exists()
