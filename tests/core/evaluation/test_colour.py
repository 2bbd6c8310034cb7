"""CIELAB against published values, and distances between colours by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cyclevar.core.evaluation.colour import colour_moments, lab
from cyclevar.core.evaluation.metrics import colour_shift


def flat(*rgb: float) -> Tensor:
    """A picture of one colour, given in 0 to 1."""
    return (torch.tensor(rgb).view(1, 3, 1, 1) * 2 - 1).expand(1, 3, 2, 2)


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((0.5, 0.5, 0.5), (53.39, 0, 0)),  # 116 * (((0.5 + 0.055) / 1.055) ** 2.4) ** (1 / 3) - 16
    ],
)
def test_colours_of_srgb(rgb: tuple[float, ...], expected: tuple[float, ...]) -> None:
    assert lab(flat(*rgb))[0, :, 0, 0].tolist() == pytest.approx(expected, abs=0.02)


def test_moments_by_hand() -> None:
    half = torch.cat([flat(1, 1, 1), flat(0, 0, 0)], dim=3)
    assert colour_moments(half)[0].tolist() == pytest.approx([50, 0, 0, 5000, 0, 0], abs=0.01)


def test_shift_by_hand() -> None:
    white, black = colour_moments(flat(1, 1, 1)), colour_moments(flat(0, 0, 0))
    assert colour_shift(white, black).value == pytest.approx(100, abs=0.01)
    assert colour_shift(white, white).value == 0
    both = torch.cat([white, black])  # mean 50, standard deviation 50
    assert colour_shift(both, white).value == pytest.approx((50**2 + 50**2) ** 0.5, abs=0.01)


def test_corresponding_sets_are_drawn_together() -> None:
    pictures = colour_moments(torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    together = colour_shift(pictures, pictures, corresponding=True)
    assert (together.low, together.high) == (0, 0)
    assert colour_shift(pictures, pictures).high > 0
