"""Scale samples of more than 8 bits to 8 bits.

An 8-bit image says where white is; a float or a 32-bit image does not. White is, in this order:

1. the maximum that a TIFF declares (SMaxSampleValue or MaxSampleValue);
2. 65535 for 16-bit samples;
3. the least of 1 (floats only), 255, 65535 and 2**31 - 1 that the 99.9th percentile of the finite samples exceeds by
   25 % at most: overshoots of a resize and single hot pixels do not count;
4. that percentile itself, if it is below a tenth of what rule 3 gives, since the image would be almost black.

Black is 0, or minus white if a quarter of the range is used below 0. Samples outside are clipped, infinite ones
included; what is not a number is black.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WHITES = (255.0, 65535.0, 2.0**31 - 1)
_OVERSHOOT, _DARK, _SIGNED = 1.25, 0.1, 0.25
_SAMPLES = 2**20  # of which the percentiles are taken
_ROWS = 2**18  # samples that are scaled at a time, so that little memory is used besides
_TIFF_MAXIMA = (341, 281)  # SMaxSampleValue, MaxSampleValue
_TIFF_MINIMA = (340, 280)


@dataclass(frozen=True)
class Range:
    """The samples that become black and white. ``declared``: the file says so. ``not_finite``: samples that are
    infinite or not a number."""

    black: float
    white: float
    declared: bool
    not_finite: int

    def __str__(self) -> str:
        text = f"{self.black:g} to {self.white:g}{' as declared' if self.declared else ''}"
        return text + (f", {self.not_finite} not finite" if self.not_finite else "")


def is_deep(image: Image.Image) -> bool:
    """Return whether the samples have more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def sample_range(image: Image.Image) -> Range:
    """Return the range of an image with more than 8 bits, as the module describes."""
    values = np.asarray(image)
    floats = values.dtype.kind == "f"
    not_finite = int(values.size - sum(int(np.isfinite(part).sum()) for part in _blocks(values))) if floats else 0
    declared = _declared(image)
    if declared is not None:
        return Range(*declared, declared=True, not_finite=not_finite)
    if image.mode.startswith("I;16") or (image.format == "PNG" and image.mode == "I"):
        return Range(0.0, 65535.0, declared=False, not_finite=0)
    sample = values.ravel()[:: max(1, values.size // _SAMPLES)]
    sample = sample[np.isfinite(sample)]
    low, high = (float(value) for value in np.percentile(sample, (0.1, 99.9))) if sample.size else (0.0, 1.0)
    reach = max(high, -low)
    candidates = ((1.0, *_WHITES) if floats else _WHITES)[:]
    white = next((white for white in candidates if reach <= _OVERSHOOT * white), reach)
    if white > candidates[0] and reach < _DARK * white:
        white = reach
    return Range(-white if low < -_SIGNED * white else 0.0, white, declared=False, not_finite=not_finite)


def _declared(image: Image.Image) -> tuple[float, float] | None:
    tags = getattr(image, "tag_v2", {})
    highs, lows = (_first(tags, names) for names in (_TIFF_MAXIMA, _TIFF_MINIMA))
    low = 0.0 if lows is None else lows
    return (low, highs) if highs is not None and highs > low else None


def _first(tags: Any, names: tuple[int, ...]) -> float | None:
    """The first of the tags that holds a finite number."""
    for name in names:
        try:
            value = tags.get(name)
            number = float(value[0] if isinstance(value, tuple) else value)
        except (TypeError, ValueError, LookupError, ArithmeticError):
            continue
        if np.isfinite(number):
            return number
    return None


def _blocks(values: NDArray[Any]) -> list[NDArray[Any]]:
    """Views of a few rows each."""
    rows = max(1, _ROWS // max(1, values[:1].size))
    return [values[begin : begin + rows] for begin in range(0, len(values), rows)]


def eight_bits(image: Image.Image, span: Range) -> Image.Image:
    """Return an image of more than 8 bits as mode L."""
    values = np.asarray(image)
    scaled = np.empty(values.shape, np.uint8)
    for part, out in zip(_blocks(values), _blocks(scaled), strict=True):
        levels = (part.astype(np.float64) - span.black) * (255 / (span.white - span.black))
        out[:] = np.rint(np.clip(np.nan_to_num(levels, nan=0.0, posinf=255.0, neginf=0.0), 0, 255))
    return Image.fromarray(scaled)
