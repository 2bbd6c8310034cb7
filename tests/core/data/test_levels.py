"""Floats and wide integers are read in the range that they use, whatever a few samples do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cyclevar.core.data import levels
from cyclevar.core.data.images import describe_picture, read_picture

RAMP = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(16, 0)
LEVELS = np.arange(256)[None].repeat(16, 0)


def read(tmp_path: Path, values: NDArray[Any], **options: Any) -> NDArray[np.int64]:
    Image.fromarray(values).save(tmp_path / "a.tif", **options)
    return np.asarray(read_picture(tmp_path / "a.tif"))[..., 0].astype(int)


def facts(tmp_path: Path) -> tuple[str, int]:
    found = describe_picture(tmp_path / "a.tif")[0]
    return found.span, found.not_finite


def test_overshoots_and_hot_pixels_do_not_darken(tmp_path: Path) -> None:
    resized = RAMP * 1.04
    assert np.array_equal(read(tmp_path, resized), np.minimum(np.rint(resized * 255), 255))
    hot = RAMP.copy()
    hot[3, 5] = 1e4
    got = read(tmp_path, hot)
    assert got[3, 5] == 255
    assert np.array_equal(got[0], LEVELS[0])
    assert facts(tmp_path) == ("0 to 1", 0)


def test_what_is_not_finite_is_clipped_and_counted(tmp_path: Path) -> None:
    odd = RAMP.copy()
    odd[0, :3] = np.inf, -np.inf, np.nan
    got = read(tmp_path, odd)
    assert got[0, :3].tolist() == [255, 0, 0]
    assert np.array_equal(got[1], LEVELS[1])
    assert facts(tmp_path) == ("0 to 1, 3 not finite", 3)
    assert read(tmp_path, np.full((4, 4), np.nan, np.float32)).max() == 0


@pytest.mark.parametrize("scale", [1, 255, 65535, 2**31 - 1])
def test_common_ranges(tmp_path: Path, scale: int) -> None:
    assert np.abs(read(tmp_path, RAMP * np.float32(scale)) - LEVELS).max() <= 1
    if scale > 1:
        assert np.abs(read(tmp_path, (RAMP.astype(float) * scale).astype(np.int32)) - LEVELS).max() <= 1


def test_a_range_of_its_own_is_used_whole(tmp_path: Path) -> None:
    assert np.abs(read(tmp_path, RAMP * np.float32(12)) - LEVELS).max() <= 1  # as 0 to 255 it were almost black
    assert np.abs(read(tmp_path, (RAMP * 4095).astype(np.int32)) - LEVELS).max() <= 1
    assert np.abs(read(tmp_path, 2 * RAMP - 1) - LEVELS).max() <= 1  # normalised to -1 to 1
    assert facts(tmp_path)[0] == "-1 to 1"


def test_the_declared_range_goes_first(tmp_path: Path) -> None:
    assert np.abs(read(tmp_path, RAMP, tiffinfo={340: 0.0, 341: 2.0}) - np.rint(LEVELS / 2)).max() <= 1
    assert facts(tmp_path)[0] == "0 to 2 as declared"


def test_dark_images_stay_dark(tmp_path: Path) -> None:
    assert read(tmp_path, RAMP * np.float32(0.1)).max() in (25, 26)
    sixteen = (LEVELS * 4).astype(np.uint16)
    assert read(tmp_path, sixteen).max() == round(1020 / 257)
    assert facts(tmp_path)[0] == ""


def test_large_images_are_scaled_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(tmp_path, RAMP)
    monkeypatch.setattr(levels, "_ROWS", 300)
    assert np.array_equal(read(tmp_path, RAMP), whole)
