"""``cyclevar generate``: files, a sheet, and one line for what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cyclevar.cli.main import main
from cyclevar.core.data.grids import picture_grid
from cyclevar.core.models.model import load_model
from cyclevar.core.pipelines.generate_files import generate_files

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def generate(
    capsys: pytest.CaptureFixture[str], small_translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs the command in an empty folder with a small model; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, model: Path | None = small_translator) -> tuple[int, str, str]:
        chosen = [] if model is None else ["--model", str(model)]
        code = main(["generate", *chosen, "--device", "cpu", *arguments])
        return code, *capsys.readouterr()

    return run


def found(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def size_of(name: str) -> tuple[int, int]:
    with Image.open(name) as picture:
        return picture.size


def test_every_domain_and_a_sheet(generate: Run) -> None:
    code, printed, errors = generate("--count", "3")
    assert (code, errors) == (0, "")
    assert printed.splitlines()[0].startswith("var, 16x16 pixels, 3 scales, guidance 0.0, temperature 1.0, top_k 0")
    assert printed.splitlines()[2] == "all of them: generated/grid-0.png"
    names = [f"{name}-0-{number:03}.png" for name in ("fluent", "noto") for number in range(3)]
    assert list(found("generated")) == [*names[:3], "grid-0.png", *names[3:]]
    assert size_of("generated/noto-0-000.png") == (16, 16)
    assert size_of("generated/grid-0.png") == (3 * 18 + 2, 2 * (18 + 2))


def test_a_picture_is_the_same_in_any_company(generate: Run) -> None:
    generate("--count", "4", "--out", "all", "--guidance", "2", "--top-k", "20")
    generate("--count", "2", "--out", "few", "--guidance", "2", "--top-k", "20", "--condition", "noto", "--batch", "1")
    every, few = found("all"), found("few")
    for name in ("noto-0-000.png", "noto-0-001.png"):
        assert every[name] == few[name]
    generate("--count", "1", "--out", "other", "--condition", "noto", "--seed", "7", "--no-grid")
    assert list(found("other")) == ["noto-7-000.png"]
    assert found("other")["noto-7-000.png"] != every["noto-0-000.png"]


def test_settings_of_every_kind(generate: Run) -> None:
    code, printed, _ = generate("--show-settings", "--temperature", "1,0.9,0.8", "--set", "top_p=0.5")
    assert code == 0
    assert printed.splitlines() == [
        "guidance: 0.0",
        "temperature:",
        "- 1.0",
        "- 0.9",
        "- 0.8",
        "top_k: 0",
        "top_p: 0.5",
        "extensions:",
        *(f"  {kind}: {{}}" for kind in ("visibility", "cache_policy", "decoder", "callbacks")),
    ]
    assert not list(Path().iterdir())


def test_what_ships(generate: Run) -> None:
    code, printed, _ = generate("--count", "1", "--no-grid", model=None)
    assert code == 0
    assert printed.startswith("var, 64x64 pixels, 8 scales")
    assert list(found("generated")) == ["fluent-0-000.png", "noto-0-000.png"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--condition", "notto"], "did you mean 'noto'?"),
        (["--size", "16x24"], "cannot make a picture of 16x24 pixels (height x width) here; expected 16x16"),
        (["--ratio", "2:1"], "cannot make a picture 2 times as wide as high here"),
        (["--size", "16"], "--size is '16'; expected two numbers, such as 64x96 (height x width)"),
        (["--ratio", "0:1"], "--ratio is '0:1'; expected two numbers, such as 16:9 (width : height)"),
        (["--size", "16x16", "--ratio", "1:1"], "--size and --ratio are given; expected one of them"),
        (["--schedule", "1-3-4"], "the schedule is 1-3-4; expected 1-2-4, whose positions"),
        (["--schedule", "1-2"], "1-2 makes pictures of 8x8 pixels; expected one that ends at 4x4 cells, for 16x16"),
        (["--schedule", "1-2", "--size", "12x12"], "pictures of 8x8 pixels; expected one that ends at 3x3 cells"),
        (["--schedule", ""], "'' is not a schedule"),
        (["--condition", "x" * 500], "xxx...'; expected one of fluent, noto"),
        (["--schedule", "a"], "'a' is not a schedule"),
        (["--guidance", "much"], "--guidance is 'much'; expected a number, or one a scale, such as 1,1.5,2"),
        (["--guidance", "1,2"], "guidance has 2 values; expected one, or 3: one a scale of 1-2-4"),
        (["--temperature", "0"], "temperature is 0; expected greater than 0"),
        (["--set", "tempreature=1"], "did you mean 'temperature'?"),
        (["--count", "0"], "the count is 0; expected 1 or more"),
        (["--seed", "-1"], "the seed is -1; expected 0 or more"),
        (["--tokenizer-weights", "no.pth", "--preset", "d17"], "did you mean 'd1"),
        (["--backbone", "vra"], "did you mean 'var'?"),
        (["--conditon", "noto"], "did you mean --condition?"),
    ],
)
def test_what_is_wrong_is_one_line(generate: Run, arguments: list[str], line: str) -> None:
    code, _, errors = generate(*arguments)
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("cyclevar: error: ")
    assert line in errors
    assert not list(Path().iterdir())


def test_long_and_equal_names(small_translator: Path, tmp_path: Path) -> None:
    model = load_model(small_translator / "model.safetensors")
    paths = list(generate_files(model, ["noto", "0", 0], tmp_path, count=1, grid=False))
    assert [path.name for path in paths] == ["0-noto-0-000.png", "1-0-0-000.png", "2-0-0-000.png"]


def test_sheets_begin_a_line_with_every_row() -> None:
    import torch

    rows = [[torch.full((3, 4, 4), value)] * count for value, count in ((-1.0, 13), (0.0, 2))]
    sheet = picture_grid(rows)
    assert sheet.shape[2] == 12 * 6 + 2
    assert sheet.shape[1] == (2 * 6 + 2) + (1 * 6 + 2)
    assert float(sheet[0, 16, 3]) == 0.0
    assert float(sheet[0, 16, -3]) == 1.0
