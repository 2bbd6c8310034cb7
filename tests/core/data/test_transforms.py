from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cyclevar.core.data.transforms import augment, from_array, random_crop, to_picture, to_tensor


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_picture_to_tensor_and_back_is_the_identity() -> None:
    picture = noise(24, 32)
    tensor = to_tensor(picture, (24, 32))
    assert tensor.dtype == torch.float32
    assert tensor.shape == (3, 24, 32)
    assert np.array_equal(np.asarray(to_picture(tensor)), np.asarray(picture))


def test_range_ends_are_exact_and_clamped() -> None:
    ends = from_array(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))
    assert set(ends.flatten().tolist()) == {-1, 1}
    assert np.array_equal(np.asarray(to_picture(ends * 5)), np.asarray(to_picture(ends)))


def test_centre_is_kept() -> None:
    picture = Image.new("RGB", (90, 30), "black")
    picture.paste("white", (30, 0, 60, 30))
    assert (to_tensor(picture, 30) == 1).all()


@pytest.mark.parametrize("extent", [(1, 1), (1, 500), (500, 1), (3000, 2)])
def test_any_extent_fits(extent: tuple[int, int]) -> None:
    assert to_tensor(Image.new("RGB", extent, "white"), (8, 16)).eq(1).all()


def test_crop_reaches_every_place_and_flip_mirrors() -> None:
    pixels = np.asarray(noise(6, 6))
    rng = np.random.default_rng(1)
    pieces = {random_crop(pixels, 4, True, rng).tobytes() for _ in range(300)}
    expected = {
        pixels[top : top + 4, left : left + 4][:, ::step].tobytes()
        for top in range(3)
        for left in range(3)
        for step in (1, -1)
    }
    assert pieces == expected


def test_augment_without_room_or_flip_is_to_tensor() -> None:
    picture = noise(20, 30)
    assert torch.equal(augment(picture, 16, 16, False, np.random.default_rng(0)), to_tensor(picture, 16))
