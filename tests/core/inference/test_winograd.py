"""Convolutions with fewer multiplications give the same sums."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cyclevar.core.inference import winograd
from cyclevar.core.inference.winograd import WinogradConv, minimal_filtering


@pytest.mark.parametrize(("outputs", "taps"), [(4, 3), (4, 2), (3, 3), (2, 3), (2, 2)])
def test_minimal_filtering_is_correlation(outputs: int, taps: int) -> None:
    torch.manual_seed(0)
    tile, taken = (torch.randn(side, dtype=torch.float64) for side in (outputs + taps - 1, taps))
    interpolation, filters, tiles = minimal_filtering(outputs, taps)
    expected = tile.unfold(0, taps, 1) @ taken
    torch.testing.assert_close(interpolation @ ((filters @ taken) * (tiles @ tile)), expected, rtol=0, atol=1e-13)
    assert len(tiles) == outputs + taps - 1  # multiplications, where correlating takes outputs * taps


@pytest.mark.parametrize("size", [(2, 3), (4, 4), (7, 10), (16, 9)])
@pytest.mark.parametrize(("taps", "padding"), [(3, 1), (2, 1), (2, 0)])
def test_it_is_the_convolution(size: tuple[int, int], taps: int, padding: int) -> None:
    torch.manual_seed(0)
    maps, weight, bias = torch.randn(2, 24, *size), torch.randn(40, 24, taps, taps) / 15, torch.randn(40)
    expected = F.conv2d(maps.double(), weight.double(), bias.double(), padding=padding)
    made = WinogradConv(weight, bias, padding=padding)(maps)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made.double(), expected, rtol=0, atol=1e-5)


def test_rounding_is_close_to_that_of_the_plain_convolution() -> None:
    torch.manual_seed(0)
    maps, weight, bias = torch.randn(1, 160, 32, 32), torch.randn(160, 160, 3, 3) / 38, torch.randn(160)
    expected = F.conv2d(maps.double(), weight.double(), bias.double(), padding=1)
    plain = (F.conv2d(maps, weight, bias, padding=1) - expected).abs()
    other = (WinogradConv(weight, bias, padding=1)(maps) - expected).abs()
    assert other.mean() < 8 * plain.mean()
    assert other.max() < 2e-5


def test_bands_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    conv = WinogradConv(torch.randn(8, 8, 3, 3), torch.randn(8), padding=1)
    maps = torch.randn(2, 8, 20, 6)
    whole = conv(maps)
    monkeypatch.setattr(winograd, "BAND", 1)
    torch.testing.assert_close(conv(maps), whole, rtol=0, atol=1e-5 * float(whole.abs().max()))


def test_what_it_holds_is_in_no_file() -> None:
    assert not list(WinogradConv(torch.ones(8, 8, 3, 3), torch.ones(8), padding=1).state_dict())
