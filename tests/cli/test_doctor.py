"""``cyclevar doctor``: the table, JSON, and the exit code."""

from __future__ import annotations

import json

import pytest

from cyclevar.cli.main import main
from cyclevar.core.diagnostics import doctor
from cyclevar.core.diagnostics.doctor import Finding

FINDINGS = [
    Finding("device", "GPU", "ok", "none"),
    Finding("attention", "inference, forward", "ok", "sdpa [flash]"),
    Finding("attention", "training, forward", "ok", "sdpa [flash]"),
    Finding("disk", "models", "note", "not there", "correct CYCLEVAR_MODELS"),
]
PROBLEM = Finding("torch", "torch", "problem", "ImportError: no torch", "install torch")


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: FINDINGS)
    assert main(["doctor"]) == 0
    printed, errors = capsys.readouterr()
    lines = [line.split() for line in printed.splitlines() if line.strip()]
    assert errors == ""
    assert lines == [
        ["device", "GPU", "ok", "none"],
        ["attention", "inference,", "forward", "ok", "sdpa", "[flash]"],
        ["training,", "forward"],
        ["disk", "models", "note", "not", "there"],
        ["->", "correct", "CYCLEVAR_MODELS"],
        ["cyclevar", "can", "be", "used"],
    ]


def test_a_problem_is_exit_code_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [*FINDINGS, PROBLEM])
    assert main(["doctor"]) == 1
    assert "cyclevar cannot be used" in capsys.readouterr().out


@pytest.mark.parametrize(("findings", "code"), [(FINDINGS, 0), ([PROBLEM], 1)])
def test_as_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, findings: list[Finding], code: int
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert main(["doctor", "--json"]) == code
    printed = json.loads(capsys.readouterr().out)
    assert printed["usable"] is (code == 0)
    assert [one["name"] for one in printed["findings"]] == [finding.name for finding in findings]
    assert set(printed["findings"][0]) == {"group", "name", "state", "found", "advice"}
