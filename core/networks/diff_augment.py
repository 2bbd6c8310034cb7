"""DiffAugment: differentiable augmentation of what a discriminator sees, real and fake alike (arXiv 2006.10738)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.errors import UnknownNameError
from cyclevar.core.runtime.batch_random import draw


def _per_picture(images: Tensor, low: float, high: float) -> Tensor:
    def numbers(count: int) -> Tensor:
        return torch.empty(count, 1, 1, 1, device=images.device, dtype=images.dtype).uniform_(low, high)

    return draw(images.shape[0], numbers)


def _place_per_picture(images: Tensor, low: int, high: int) -> Tensor:
    """Whole numbers from ``low`` to below ``high``: int64 [B,1,1]."""
    return draw(images.shape[0], lambda count: torch.randint(low, high, (count, 1, 1), device=images.device))


def color(images: Tensor) -> Tensor:
    """Random brightness (+-0.5), saturation (0 to 2) and contrast (0.5 to 1.5), one draw a picture."""
    images = images + _per_picture(images, -0.5, 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * _per_picture(images, 0, 2)
    level = images.mean((1, 2, 3), keepdim=True)
    return level + (images - level) * _per_picture(images, 0.5, 1.5)


def translation(images: Tensor, ratio: float = 0.125) -> Tensor:
    """Shift by up to ``ratio`` of the side, zeros moving in."""
    batch, _, height, width = images.shape
    device = images.device
    limit_y, limit_x = int(height * ratio + 0.5), int(width * ratio + 0.5)
    dy = _place_per_picture(images, -limit_y, limit_y + 1)
    dx = _place_per_picture(images, -limit_x, limit_x + 1)
    rows = (torch.arange(height, device=device)[None, :, None] + dy + 1).clamp(0, height + 1)
    columns = (torch.arange(width, device=device)[None, None, :] + dx + 1).clamp(0, width + 1)
    padded = F.pad(images, (1, 1, 1, 1))
    picture = torch.arange(batch, device=device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[picture, rows, columns].permute(0, 3, 1, 2)


def cutout(images: Tensor, ratio: float = 0.5) -> Tensor:
    """Zero a square of ``ratio`` of the side around a random point; less of it where it reaches over the border."""
    height, width = images.shape[2:]
    device = images.device
    cut_y, cut_x = int(height * ratio + 0.5), int(width * ratio + 0.5)
    top = _place_per_picture(images, 0, height + 1 - cut_y % 2) - cut_y // 2
    left = _place_per_picture(images, 0, width + 1 - cut_x % 2) - cut_x // 2
    rows = torch.arange(height, device=device)[None, :, None] - top
    columns = torch.arange(width, device=device)[None, None, :] - left
    inside = (rows >= 0) & (rows < cut_y) & (columns >= 0) & (columns < cut_x)
    return images * ~inside[:, None]


PARTS: dict[str, Callable[[Tensor], Tensor]] = {"color": color, "translation": translation, "cutout": cutout}


def check_parts(parts: Sequence[str]) -> tuple[str, ...]:
    """The given names, every one of which is a part. Raises `UnknownNameError`."""
    for part in parts:
        if part not in PARTS:
            raise UnknownNameError("augmentation", part, PARTS)
    return tuple(parts)


def augment(images: Tensor, parts: Sequence[str]) -> Tensor:
    """Images ``[B,3,H,W]`` through the named parts; randomness from the global random state."""
    for part in parts:
        images = PARTS[part](images)
    return images
