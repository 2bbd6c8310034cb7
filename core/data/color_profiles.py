"""Convert images with an embedded ICC colour profile to sRGB."""

from __future__ import annotations

import functools
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

LARGEST_PROFILE = 2**24
"""Bytes of a profile that is used; a larger one is ignored."""

SAME_LEVELS = 2
"""Levels of 255 within which a profile's conversion may differ from no conversion to count as sRGB itself."""

# Colour space of a profile -> the modes of Pillow in which its transform runs.
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "LAB": "LAB", "Lab": "LAB"}


class Conversion(NamedTuple):
    """A transform to sRGB and the name of the profile it starts from."""

    transform: ImageCms.ImageCmsTransform
    mode: str
    name: str


def conversion_to_srgb(profile: bytes | None, mode: str) -> Conversion | None:
    """Return the transform of an image's embedded profile.

    None if there is no profile, if it is damaged, describes another kind of colours than ``mode`` has, or is sRGB.
    """
    if mode == "LAB":
        return _lab()
    if not profile or len(profile) > LARGEST_PROFILE:
        return None
    return _conversion(bytes(profile), "L" if mode in ("1", "L", "LA", "La") else "CMYK" if mode == "CMYK" else "RGB")


@functools.lru_cache(maxsize=1)
def _lab() -> Conversion:
    return Conversion(_transform(ImageCms.createProfile("LAB"), "LAB"), "LAB", "CIELAB")


@functools.lru_cache(maxsize=8)
def _conversion(profile: bytes, mode: str) -> Conversion | None:
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _MODES.get(opened.profile.xcolor_space.strip()) != mode:
            return None
        transform = _transform(opened, mode)
        name = ImageCms.getProfileDescription(opened).strip()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    grid = _grid(mode)
    changed = np.asarray(ImageCms.applyTransform(grid, transform), np.int16) - np.asarray(grid.convert("RGB"), np.int16)
    return Conversion(transform, mode, name or "unnamed profile") if np.abs(changed).max() > SAME_LEVELS else None


def _transform(profile: Any, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")


def _grid(mode: str) -> Image.Image:
    """Colours from all over the space: 9 levels per channel."""
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    channels = len(Image.new(mode, (1, 1)).getbands())
    colours = np.stack(np.meshgrid(*[levels] * channels), -1).reshape(-1, 9, channels)
    return Image.fromarray(colours[..., 0] if channels == 1 else colours, mode if channels == 1 else None).convert(mode)


def convert(image: Image.Image, conversion: Conversion) -> Image.Image:
    """Return ``image``, in the mode of the conversion, as sRGB of mode RGB."""
    converted = ImageCms.applyTransform(image, conversion.transform)
    assert converted is not None
    return converted
