"""``cyclevar demo`` writes what it says, again and again, and touches nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cyclevar.cli.main import main
from cyclevar.core import demo
from cyclevar.core.data import grids
from cyclevar.core.data.images import read_picture
from cyclevar.core.data.sources import UnpairedDataset
from cyclevar.core.training import launch as start
from cyclevar.core.weights.shipped import WEIGHTS


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    small_translator: Path,
    few_emoji: Callable[[], UnpairedDataset],
) -> Callable[..., tuple[int, str, str]]:
    """Runs ``cyclevar demo`` with small models and little data; gives exit code, standard output and standard error."""
    monkeypatch.setattr(start, "shipped_weights", lambda family, preset: small_translator / WEIGHTS)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["demo", "--model", str(small_translator), "--device", "cpu", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_twice(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, few_emoji: Callable[[], UnpairedDataset]
) -> None:
    out = tmp_path / "demo"
    for _ in range(2):
        code, printed, _ = run("--out", out, "--steps", 3)
        assert code == 0
        expected = [out / "noto-to-fluent.png", out / "fluent-to-noto.png", out / "training/samples/step-00000003.png"]
        assert printed.splitlines()[-3:] == [f"  {path}" for path in expected]
        assert all(path.is_file() for path in expected)
        assert "3/3: loss/gan" in printed
        assert "round trip of true target" in printed
        (out / "own.txt").touch()
    test = few_emoji().test
    assert test
    for direction in ("noto-to-fluent", "fluent-to-noto"):
        pictures = sorted((out / direction).iterdir())
        assert [path.stem for path in pictures] == sorted(test[0].names)
        assert {read_picture(path).size for path in pictures} == {(128, 128)}
    assert (out / "own.txt").exists()
    assert (out / "training" / "translator.json").is_file()


def test_without_training_where_something_else_lies(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "thesis.txt").touch()
    code, printed, _ = run("--out", tmp_path, "--steps", 0)
    assert code == 0
    assert printed.splitlines()[-1] == f"  {tmp_path / 'fluent-to-noto.png'}"
    code, _, errors = run("--out", tmp_path, "--steps", 3)
    assert (code, "exists and is not a run" in errors) == (2, True)
    assert (tmp_path / "training" / "thesis.txt").exists()
    (tmp_path / "file").touch()
    code, _, errors = run("--out", tmp_path / "file")
    assert (code, "is a file; expected a folder" in errors) == (2, True)


def test_a_sheet_has_captions_and_every_picture() -> None:
    red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (10, 10), "blue")
    sheet = demo.draw_sheet({"source": [red] * 5, "translated": [blue] * 5}, rows=2, side=20)
    cell = 20 + grids.GAP
    assert sheet.size == (6 * cell + 8 * grids.GAP + grids.GAP, 2 * cell + grids.CAPTION + grids.GAP)
    colours = {colour: count for count, colour in sheet.getcolors(2**16)}
    assert (colours[255, 0, 0], colours[0, 0, 255]) == (5 * 400, 5 * 400)
    assert len(sheet.crop((0, 0, sheet.width, grids.CAPTION)).getcolors(2**16)) > 2
