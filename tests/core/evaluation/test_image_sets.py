"""Sets of pictures: what they share is found by what they show, pairs by what they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cyclevar.core.errors import ConfigError, DataError
from cyclevar.core.evaluation.image_sets import (
    PictureSet,
    check_limit,
    common_size,
    match_names,
    open_folder,
    read_set,
    refuse_shared,
)


def fill(folder: Path, *files: str, size: tuple[int, int] = (8, 8)) -> Path:
    """Pictures whose content follows from the number in front of the colon: ``3:sub/a.png``."""
    for file in files:
        seed, _, name = file.partition(":")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(int(seed)).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def sets(one: Path, other: Path) -> dict[str, PictureSet]:
    return {"one": read_set(open_folder(one), 8), "other": read_set(open_folder(other), 8)}


def test_shared_pictures_are_found_whatever_they_are_called(tmp_path: Path) -> None:
    one = fill(tmp_path / "one", "1:a.png", "2:b.png", "3:c.png")
    other = fill(tmp_path / "other", "2:x.bmp", "4:a.png", "5:c.png")
    with pytest.raises(DataError, match=r"one and other share 1 pictures: b\.png = x\.bmp; expected different"):
        refuse_shared(sets(one, other))
    assert refuse_shared(sets(one, other), tolerated=0.4) == ("one and other share 1 pictures: b.png = x.bmp.",)
    (other / "x.bmp").unlink()
    assert refuse_shared(sets(one, other)) == ()


def test_pairs_have_the_same_stems(tmp_path: Path) -> None:
    one = fill(tmp_path / "one", "1:b.png", "2:a.png", "3:sub/a.png")
    other = fill(tmp_path / "other", "4:a.bmp", "5:b.bmp", "6:sub/a.png")
    both = sets(one, other)
    assert both["one"].stems == both["other"].stems == ("a", "b", "sub/a")
    assert match_names(both) == ({"other": True}, ())
    (other / "b.bmp").rename(other / "d.bmp")
    same, notes = match_names(sets(one, other))
    assert same == {"other": False}
    assert notes == ("Only 2 names of 3 one and 3 other pictures agree; they are not taken for pairs.",)


def test_reading(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", "1:a.png", "2:b.png", size=(12, 10))
    fill(folder, "3:c.png", size=(9, 30))
    (folder / "broken.png").write_bytes(b"no picture")
    pictures = open_folder(folder)
    assert common_size(pictures) == 9
    found = read_set(pictures, 8, limit=2)
    assert found.names == ("a.png", "b.png")
    assert found.images.shape == (2, 3, 8, 8)
    assert torch.all(found.images.abs() <= 1)
    assert len(set(found.hashes)) == 2


def test_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no pictures in"):
        open_folder(tmp_path)
    with pytest.raises(ConfigError, match="2 or more"):
        check_limit(1)
