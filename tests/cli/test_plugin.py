"""Beginning and checking a plugin on the command line; the checks themselves are in tests/core/contract."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from cyclevar.cli import main as cli
from cyclevar.core.contract.check import Finding


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the check finds."""
    findings = [Finding("versions", True, "it fits"), Finding("contract: loss", None, "0 passed, 1 skipped (no file)")]
    monkeypatch.setattr("cyclevar.core.contract.check.check_plugin", lambda package, commands: findings)
    return findings


def run(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> tuple[int, str, str]:
    code = cli.main(arguments)
    return code, *capsys.readouterr()


def test_new_lists_what_it_wrote_and_what_comes_next(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, ["plugin", "new", "sepia", "--kind", "metric", "--out", str(tmp_path)])
    folder = tmp_path / "cyclevar-sepia"
    assert (code, err) == (0, "")
    *files, following = out.splitlines()
    assert files == sorted(str(path) for path in folder.rglob("*") if path.is_file())
    assert following.startswith("next: pip install -e ")
    assert following.endswith(f"cyclevar plugin check {folder}")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["new", "a b", "--kind", "loss"], "'a b' cannot be the name of a plugin"),
        (["new", "sepia", "--kind", "los"], "did you mean 'loss'?"),
        (["new", "sepia"], "Missing option '--kind'"),
        (["check", "no-such-thing"], "no installed distribution 'no-such-thing' has a plugin for cyclevar"),
    ],
)
def test_what_cannot_be_done_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    code, out, err = run(capsys, ["plugin", *arguments])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert line in err


def test_check_is_a_table(capsys: pytest.CaptureFixture[str], found: list[Finding]) -> None:
    code, out, _ = run(capsys, ["plugin", "check", "x"])
    assert code == 0
    for text in ("versions", "ok", "it fits", "skipped"):
        assert text in out


def test_a_failure_is_exit_code_1(capsys: pytest.CaptureFixture[str], found: list[Finding]) -> None:
    found.append(Finding("loads", False, "it does not", "repair it"))
    code, out, _ = run(capsys, ["plugin", "check", "x"])
    assert code == 1
    assert "FAILED" in out
    assert "repair it" in out
    code, out, _ = run(capsys, ["plugin", "check", "x", "--json"])
    assert code == 1
    assert json.loads(out)[-1] == {"check": "loads", "passed": False, "found": "it does not", "to_do": "repair it"}
