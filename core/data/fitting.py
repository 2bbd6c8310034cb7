"""Fit an image to a model's canvas, and cut the result back to the image's own size.

A picture that is not of the model's shape keeps its proportions: it is scaled (Lanczos) until it just fits, the rest is
filled by repeating its edges, and after the translation the same part is cut out and scaled to the picture's own size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from cyclevar.core.data.transforms import Pixels, to_picture


@dataclass(frozen=True)
class Fitted:
    """A picture on the model's canvas.

    ``pixels``: uint8 ``[H,W,3]``; ``box``: where it lies there (left, top, right, bottom); ``size``: its own width and
    height.
    """

    pixels: Pixels
    box: tuple[int, int, int, int]
    size: tuple[int, int]


def fit(picture: Image.Image, canvas: tuple[int, int]) -> Fitted:
    """Scale a picture until it just fits ``canvas`` (height, width), and repeat its edges where it leaves room."""
    height, width = canvas
    scale = min(width / picture.width, height / picture.height)
    inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    pixels = np.asarray(picture.resize(inner, Image.Resampling.LANCZOS))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    right, bottom = width - inner[0] - left, height - inner[1] - top
    padded = np.pad(pixels, ((top, bottom), (left, right), (0, 0)), mode="edge")
    return Fitted(padded, (left, top, left + inner[0], top + inner[1]), picture.size)


def unfit(output: Tensor, fitted: Fitted, size: int | None = None) -> Image.Image:
    """A translation ``[3,H,W]`` in [-1,1] taken off the canvas, at its source's size or with longer side ``size``."""
    width, height = fitted.size
    if size is not None:
        longer = max(fitted.size)
        width, height = (max(1, round(side * size / longer)) for side in fitted.size)
    return to_picture(output).resize((width, height), Image.Resampling.LANCZOS, box=fitted.box)
