"""``cyclevar report``: one page for one run or several, and one line for what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cyclevar.cli.main import main
from cyclevar.core.config.training import TrainConfig

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs ``cyclevar report`` in a folder with two runs; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        folder = tmp_path / f"runs/var-{number}"
        folder.mkdir(parents=True)
        settings = TrainConfig(seed=number).model_dump(mode="json")
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo')

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["report", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_one_run_gets_its_page(run: Run) -> None:
    assert run("runs/var-1") == (0, "runs/var-1/report.html (0.0 MB): open it in a browser\n", "")
    page = Path("runs/var-1/report.html").read_text()
    assert "1 damaged line left out" in page
    assert "2.5 at 1" in page
    assert run("var-1", "--out", "new/page.html")[0] == 0
    assert Path("new/page.html").read_text() == page


def test_several_runs_are_compared(run: Run) -> None:
    assert run("var-1", "var-2") == (0, "comparison.html (0.0 MB): open it in a browser\n", "")
    assert "var-1 · var-2" in Path("comparison.html").read_text()
    assert not Path("runs/var-1/report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "no run is named; expected one or more run folders; there are runs/var-1, runs/var-2."),
        (
            ("vra-1",),
            "there is no run named 'vra-1'; expected one of var-1, var-2; did you mean 'var-1'?",
        ),
        (
            ("runs/vor-1",),
            "there is no run named 'runs/vor-1'; expected one of runs/var-1, runs/var-2; did you mean 'runs/var-1'?",
        ),
        (("runs",), "runs is not a run; expected a folder with config.yaml."),
        (("var-1", "runs/var-1"), "runs/var-1 is named twice; name each run once."),
    ],
)
def test_what_is_wrong_is_one_line(run: Run, arguments: tuple[str, ...], line: str) -> None:
    assert run(*arguments) == (2, "", f"cyclevar: error: {line}\n")
