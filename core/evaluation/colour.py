"""Colours as people tell them apart: CIELAB of sRGB pictures (CIE 15; IEC 61966-2-1), white point D65."""

from __future__ import annotations

import torch
from torch import Tensor

_XYZ_OF_RGB = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
"""Linear RGB to XYZ; its rows add up to the white point."""


def lab(images: Tensor) -> Tensor:
    """Pictures ``[B,3,H,W]`` in [-1,1] to L* (0 to 100), a* (green to red) and b* (blue to yellow), float64."""
    rgb = (images.double() + 1) / 2
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0) + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(_XYZ_OF_RGB, dtype=torch.float64, device=images.device)
    xyz = torch.einsum("ij,bjhw->bihw", matrix / matrix.sum(1, keepdim=True), linear)
    limit = 6 / 29
    x, y, z = torch.where(xyz > limit**3, xyz.clamp_min(0) ** (1 / 3), xyz / (3 * limit**2) + 4 / 29).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def colour_moments(images: Tensor) -> Tensor:
    """Means of L*, a*, b* and of their squares over the pixels of pictures ``[B,3,H,W]`` in [-1,1]: float64 ``[B,6]``.

    Moments of a set of equally large pictures are the means of theirs.
    """
    pixels = lab(images).flatten(2)
    return torch.cat([pixels.mean(2), pixels.square().mean(2)], dim=1)
