"""An image with a colour profile comes out with the colours that a viewer shows."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from cyclevar.core.data.color_profiles import conversion_to_srgb
from cyclevar.core.data.images import describe_picture, read_picture

Array = NDArray[Any]
Profiles = Callable[[str], bytes]

D50 = np.array([0.9642, 1.0, 0.8249])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])

# Muted colours, which lie inside sRGB whatever the space.
MUTED = np.random.default_rng(0).integers(100, 150, (24, 24, 3), np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def lab(levels: Array, space: tuple[Array, float] | None = None) -> Array:
    """CIELAB (D50) of 8-bit colours ``[...,3]`` in a space of primaries and gamma, or in sRGB."""
    values = np.asarray(levels, float) / 255
    if space is None:
        linear, matrix = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4), SRGB
    else:
        linear, matrix = values ** space[1], space[0]
    xyz = linear @ matrix.T / D50
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def difference(a: Array, b: Array) -> Array:
    """dE (CIE 1976) of two arrays of CIELAB colours."""
    return np.asarray(np.linalg.norm(a - b, axis=-1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("space", ["Adobe RGB", "Display P3", "ProPhoto"])
def test_colours_are_those_of_the_profile(
    color_profile: Profiles, color_spaces: dict[str, tuple[Array, float]], space: str, kind: str
) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.fromarray(MUTED), kind, icc_profile=color_profile(space), **options)
    true = lab(MUTED, color_spaces[space])
    found = difference(lab(np.asarray(read_picture(data))), true)
    assert found.mean() < 0.5
    assert found.max() < 1.5  # a level of 255 is up to 0.9 here
    assert difference(lab(MUTED), true).mean() > 1.5  # what ignoring the profile would give


@pytest.mark.parametrize("mode", ["L", "1"])
def test_a_profile_of_other_colours_is_ignored(color_profile: Profiles, mode: str) -> None:
    image = Image.fromarray(MUTED).convert(mode)
    data = saved(image, "PNG", icc_profile=color_profile("ProPhoto"))
    assert np.array_equal(np.asarray(read_picture(data)), np.asarray(image.convert("RGB")))


def test_damaged_profiles_are_ignored(color_profile: Profiles) -> None:
    for damaged in (b"\0" * 200, color_profile("ProPhoto")[:150], b"x"):
        data = saved(Image.fromarray(MUTED), "PNG", icc_profile=damaged)
        assert np.array_equal(np.asarray(read_picture(data)), MUTED)


def test_srgb_is_left_as_it_is() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert conversion_to_srgb(srgb, "RGB") is None
    data = saved(Image.fromarray(MUTED), "PNG", icc_profile=srgb)
    assert np.array_equal(np.asarray(read_picture(data)), MUTED)
    assert describe_picture(data)[0].profile == ""


def test_palette_and_transparency_keep_their_profile(color_profile: Profiles) -> None:
    plain = read_picture(saved(Image.fromarray(MUTED), "PNG", icc_profile=color_profile("ProPhoto")))
    transparent = Image.fromarray(MUTED)
    transparent.putalpha(Image.fromarray(np.full((24, 24), 255, np.uint8)))
    transparent.putpixel((0, 0), (0, 0, 0, 0))
    got = np.asarray(read_picture(saved(transparent, "PNG", icc_profile=color_profile("ProPhoto"))))
    assert got[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(got[1:], np.asarray(plain)[1:])
    few = Image.fromarray(MUTED).quantize(8)
    want = read_picture(saved(few.convert("RGB"), "PNG", icc_profile=color_profile("ProPhoto")))
    assert np.array_equal(
        np.asarray(read_picture(saved(few, "PNG", icc_profile=color_profile("ProPhoto")))), np.asarray(want)
    )


def test_the_profile_is_named(color_profile: Profiles) -> None:
    assert describe_picture(saved(Image.fromarray(MUTED), "PNG", icc_profile=color_profile("ProPhoto")))[0].profile == (
        "ProPhoto"
    )
