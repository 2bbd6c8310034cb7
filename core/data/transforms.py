"""Between pictures and tensors.

A picture is 8-bit RGB; an array is its pixels, uint8 [..., H, W, 3]; a tensor is float32 [..., 3, H, W] in [-1, 1].
A size is one number (a square) or (height, width).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

Size = int | tuple[int, int]
Pixels = NDArray[np.uint8]


def to_array(picture: Image.Image, size: Size) -> Pixels:
    """Scale (Lanczos) until the picture just covers ``size`` and cut out the centre: uint8 [H, W, 3]."""
    height, width = (size, size) if isinstance(size, int) else size
    return np.asarray(ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS))


def from_array(pixels: Pixels) -> Tensor:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in [-1, 1]; 0 becomes -1 and 255 becomes 1."""
    channels_first = np.ascontiguousarray(np.moveaxis(pixels, -1, -3))
    return torch.from_numpy(channels_first).float().div_(127.5).sub_(1)


def to_tensor(picture: Image.Image, size: Size) -> Tensor:
    """The centre of the picture, scaled to ``size``: float32 [3, H, W] in [-1, 1]."""
    return from_array(to_array(picture, size))


def random_crop(pixels: Pixels, size: int, flip: bool, rng: np.random.Generator) -> Pixels:
    """A random ``size`` x ``size`` piece of [H, W, 3], mirrored half of the time if ``flip``."""
    top, left = (int(rng.integers(extent - size + 1)) for extent in pixels.shape[:2])
    mirrored = flip and rng.random() < 0.5
    piece = pixels[top : top + size, left : left + size]
    return piece[:, ::-1] if mirrored else piece


def augment(picture: Image.Image, size: int, load_size: int, flip: bool, rng: np.random.Generator) -> Tensor:
    """Scale to ``load_size``, cut out a random piece, perhaps mirror it: float32 [3, size, size] in [-1, 1]."""
    return from_array(random_crop(to_array(picture, load_size), size, flip, rng))


def to_picture(tensor: Tensor) -> Image.Image:
    """[3, H, W] in [-1, 1] (clamped) -> 8-bit RGB; the inverse of :func:`to_tensor` at the picture's own size."""
    levels = tensor.detach().float().clamp(-1, 1).add(1).mul(127.5).round()
    return Image.fromarray(levels.byte().permute(1, 2, 0).cpu().numpy())
