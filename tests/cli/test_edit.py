"""``cyclevar edit``: a part redone, the rest untouched, and one line for what cannot be done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclevar.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def edit(
    capsys: pytest.CaptureFixture[str], small_translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs the command with a small model in a folder with a picture of 20x12 and its mask."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    Image.fromarray(pixels).save("in.png")
    Image.fromarray(pixels[:12, :14]).save("small.png")
    mask = Image.new("L", (20, 12))
    mask.paste(255, (5, 2, 9, 11))
    mask.save("mask.png")

    def run(operation: str, *arguments: str) -> tuple[int, str, str]:
        code = main(["edit", operation, *arguments, "--model", str(small_translator), "--device", "cpu"])
        return code, *capsys.readouterr()

    return run


def pixels(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(name) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_mask_and_a_box(edit: Run) -> None:
    assert edit("inpaint", "in.png", "out.png", "--mask", "mask.png", "--condition", "noto") == (
        0,
        "out.png: 20x12\n",
        "",
    )
    before, after = pixels("in.png"), pixels("out.png")
    marked = pixels("mask.png")[..., 0] > 0
    assert np.array_equal(before[~marked], after[~marked])
    assert not np.array_equal(before[marked], after[marked])
    edit("inpaint", "in.png", "box.png", "--box", "5,2,9,11", "--condition", "noto")
    assert np.array_equal(pixels("box.png"), after)
    edit("inpaint", "in.png", "seed.png", "--box", "5,2,9,11", "--condition", "noto", "--seed", "1")
    assert not np.array_equal(pixels("seed.png"), after)
    edit("inpaint", "in.png", "plain.png", "--box", "5,2,9,11", "--condition", "noto", "--no-compose")
    assert not np.array_equal(pixels("plain.png")[~marked], before[~marked])


def test_larger_canvases(edit: Run) -> None:
    assert edit("outpaint", "small.png", "out.png", "--right", "2", "--top", "4", "--condition", "noto")[0] == 0
    assert np.array_equal(pixels("out.png")[4:, :14], pixels("small.png"))
    assert edit("expand", "small.png", "out.png", "--size", "16x16", "--condition", "noto")[0] == 0
    assert np.array_equal(pixels("out.png")[2:14, 1:15], pixels("small.png"))
    assert edit("expand", "small.png", "square.png", "--ratio", "1:1", "--condition", "noto")[0] == 0
    assert np.array_equal(pixels("square.png"), pixels("out.png"))


def test_refining(edit: Run) -> None:
    assert edit("refine", "in.png", "out.jpg", "--keep", "2", "--condition", "fluent") == (0, "out.jpg: 20x12\n", "")
    assert pixels("out.jpg").shape == (12, 20, 3)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["inpaint", "in.png", "out.png", "--condition", "noto"], "what to redo is not said; expected one of --mask"),
        (
            ["inpaint", "in.png", "out.png", "--condition", "noto", "--mask", "small.png"],
            "the mask is 14x12 and the picture 20x12",
        ),
        (["inpaint", "in.png", "out.png", "--box", "1,2,3", "--condition", "noto"], "--box is '1,2,3'; expected four"),
        (["inpaint", "in.png", "out.png", "--box", "1,2,30,4", "--condition", "noto"], "inside the picture of 20x12"),
        (
            ["inpaint", "in.png", "out.png", "--box", "1,2,3,4"],
            "what to draw is not said; expected --condition, one of",
        ),
        (["inpaint", "in.png", "out.png", "--box", "1,2,3,4", "--condition", "nto"], "did you mean 'noto'?"),
        (["inpaint", "no.png", "out.png", "--box", "1,2,3,4", "--condition", "noto"], "cannot read the picture no.png"),
        (["inpaint", "in.png", "out", "--box", "1,2,3,4", "--condition", "noto"], "out is no name for a picture"),
        (["outpaint", "in.png", "out.png", "--condition", "noto"], "nothing is to be added"),
        (
            ["outpaint", "in.png", "out.png", "--left", "12", "--condition", "noto"],
            "var cannot make a picture of 12x32 pixels (height x width) here; expected 16x16",
        ),
        (["expand", "in.png", "out.png", "--condition", "noto"], "the new canvas is not said"),
        (["expand", "in.png", "out.png", "--size", "8x8", "--condition", "noto"], "does not lie inside 8x8"),
        (["refine", "in.png", "out.png", "--keep", "3", "--condition", "noto"], "3 scales are to be kept; expected 0"),
        (["refine", "in.png", "out.png", "--size", "32x32", "--condition", "noto"], "expected 16x16, the nearest size"),
        (["refin", "in.png", "out.png"], "refine"),
    ],
)
def test_what_is_wrong_is_one_line(edit: Run, arguments: list[str], line: str) -> None:
    code, _, errors = edit(*arguments)
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("cyclevar: error: ")
    assert line in errors
    assert not Path("out.png").exists()


def test_a_mask_that_is_white_on_transparent(edit: Run) -> None:
    mask = Image.new("RGBA", (20, 12), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (5, 2, 9, 11))
    mask.save("clear.png")
    assert edit("inpaint", "in.png", "clear-out.png", "--mask", "clear.png", "--condition", "noto")[0] == 0
    edit("inpaint", "in.png", "out.png", "--mask", "mask.png", "--condition", "noto")
    assert np.array_equal(pixels("clear-out.png"), pixels("out.png"))


def test_a_wrong_mask_is_told_before_the_model_is_opened(edit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from cyclevar.cli._model import Choice

    def opened(_: Choice) -> None:
        raise AssertionError("the model was opened")

    monkeypatch.setattr(Choice, "open", opened)
    Image.new("RGBA", (20, 12), (255, 255, 255, 0)).save("nothing.png")
    for mask, problem in (("small.png", "the mask is 14x12"), ("nothing.png", "the mask has no white")):
        code, _, error = edit("inpaint", "in.png", "out.png", "--mask", mask, "--condition", "noto")
        assert (code, problem in error) == (2, True)
    assert edit("inpaint", "in.png", "out.png", "--condition", "noto")[0] == 2
