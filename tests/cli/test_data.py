"""``cyclevar data check`` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclevar.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``cyclevar data``; gives exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["data", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number, domain in enumerate(("horse", "zebra")):
        (tmp_path / domain).mkdir()
        for seed in range(40):
            pixels = np.random.default_rng((number, seed)).integers(0, 256, (6, 6, 3), np.uint8)
            Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC).save(
                tmp_path / domain / f"{seed:02d}.png"
            )
    return tmp_path


def test_nothing_to_put_right(run: Run, pictures: Path) -> None:
    code, out, err = run("check", pictures)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split()[0] == pictures.name
    assert lines[1:] == [
        "train/horse: 32 pictures, 40x40, PNG, RGB",
        "train/zebra: 32 pictures, 40x40, PNG, RGB",
        "validation/horse: 8 pictures, 40x40, PNG, RGB",
        "validation/zebra: 8 pictures, 40x40, PNG, RGB",
        "to know: train/horse has 32 images, which is few: see docs/small_data.md",
        "to know: train/zebra has 32 images, which is few: see docs/small_data.md",
        "nothing to put right",
    ]


def test_what_is_wrong_is_said_and_gives_exit_code_one(run: Run, pictures: Path) -> None:
    (pictures / "horse" / "20.png").write_bytes(b"damaged")
    Image.open(pictures / "zebra" / "21.png").save(pictures / "zebra" / "21.gif")
    (pictures / "horse" / "again.png").write_bytes((pictures / "zebra" / "06.png").read_bytes())
    code, out, _ = run("check", pictures / "horse", pictures / "zebra")
    assert code == 1
    assert "cannot be read: 20.png: not a picture" in out
    assert "equal: 2 (train/horse/again.png, train/zebra/06.png)" in out
    assert "to put right: 1 equal groups of pictures are in both domains" in out
    code, out, _ = run("check", pictures / "horse", pictures / "zebra", "--json")
    report = json.loads(out)
    assert code == 1
    assert sum(len(part["bad"]) for part in report["parts"]) == 1
    assert len(report["problems"]) == 2
    pair = ["train/horse/again.png", "train/zebra/06.png"]
    assert {"kind": "exact", "across": "domains", "pictures": pair} in report["duplicates"]


def test_long_lists_are_cut(run: Run, pictures: Path) -> None:
    for seed in range(15):
        (pictures / "horse" / f"bad-{seed}.png").write_bytes(b"damaged")
    _, out, _ = run("check", pictures)
    assert out.count("cannot be read: bad-") <= 10 + 2
    assert "more, which --json lists" in out


def test_no_data_set_is_one_line(run: Run, tmp_path: Path) -> None:
    code, _, err = run("check", tmp_path / "none")
    assert (code, err.count("\n")) == (2, 1)
    assert "does not exist" in err
