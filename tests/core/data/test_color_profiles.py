"""An image with a colour profile comes out with the colours that a viewer shows."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from cyclevar.core.data.color_profiles import conversion_to_srgb
from cyclevar.core.data.images import describe_picture, read_picture
from tests.core.data.profiles import SPACES, difference, lab, profile

# Muted colours, which lie inside sRGB whatever the space.
MUTED = np.random.default_rng(0).integers(100, 150, (24, 24, 3), np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("space", SPACES)
def test_colours_are_those_of_the_profile(space: str, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.fromarray(MUTED), kind, icc_profile=profile(space), **options)
    true = lab(MUTED, space)
    found = difference(lab(np.asarray(read_picture(data))), true)
    assert found.mean() < 0.5
    assert found.max() < 1.5  # a level of 255 is up to 0.9 here
    assert difference(lab(MUTED), true).mean() > 1.5  # what ignoring the profile would give


@pytest.mark.parametrize("mode", ["L", "1"])
def test_a_profile_of_other_colours_is_ignored(mode: str) -> None:
    image = Image.fromarray(MUTED).convert(mode)
    data = saved(image, "PNG", icc_profile=profile("ProPhoto"))
    assert np.array_equal(np.asarray(read_picture(data)), np.asarray(image.convert("RGB")))


def test_damaged_profiles_are_ignored() -> None:
    for damaged in (b"\0" * 200, profile("ProPhoto")[:150], b"x"):
        data = saved(Image.fromarray(MUTED), "PNG", icc_profile=damaged)
        assert np.array_equal(np.asarray(read_picture(data)), MUTED)


def test_srgb_is_left_as_it_is() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert conversion_to_srgb(srgb, "RGB") is None
    data = saved(Image.fromarray(MUTED), "PNG", icc_profile=srgb)
    assert np.array_equal(np.asarray(read_picture(data)), MUTED)
    assert describe_picture(data)[0].profile == ""


def test_palette_and_transparency_keep_their_profile() -> None:
    plain = read_picture(saved(Image.fromarray(MUTED), "PNG", icc_profile=profile("ProPhoto")))
    transparent = Image.fromarray(MUTED)
    transparent.putalpha(Image.fromarray(np.full((24, 24), 255, np.uint8)))
    transparent.putpixel((0, 0), (0, 0, 0, 0))
    got = np.asarray(read_picture(saved(transparent, "PNG", icc_profile=profile("ProPhoto"))))
    assert got[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(got[1:], np.asarray(plain)[1:])
    few = Image.fromarray(MUTED).quantize(8)
    want = read_picture(saved(few.convert("RGB"), "PNG", icc_profile=profile("ProPhoto")))
    assert np.array_equal(
        np.asarray(read_picture(saved(few, "PNG", icc_profile=profile("ProPhoto")))), np.asarray(want)
    )


def test_the_profile_is_named() -> None:
    assert describe_picture(saved(Image.fromarray(MUTED), "PNG", icc_profile=profile("ProPhoto")))[0].profile == (
        "ProPhoto"
    )
