"""Tiles put together again are the whole, where nothing looks far."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from cyclevar.core.errors import ConfigError
from cyclevar.core.inference.tiling import in_tiles, tiled
from cyclevar.core.models.model import build


def blurred(maps: torch.Tensor) -> torch.Tensor:
    """Looks two pixels far."""
    return F.conv2d(maps, torch.ones(1, 1, 5, 5, dtype=maps.dtype) / 25, padding=2)


def doubled(maps: torch.Tensor) -> torch.Tensor:
    return blurred(F.interpolate(maps, scale_factor=2.0))


def halved(maps: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(blurred(maps), 2)


@pytest.mark.parametrize("function", [blurred, doubled, halved])
@pytest.mark.parametrize("size", [(64, 64), (16, 50), (17 * 2, 98), (12, 12)])
def test_exact_within_a_quarter_of_the_overlap(
    function: Callable[[torch.Tensor], torch.Tensor], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 1, *size, dtype=torch.float64)
    seen = list[tuple[int, ...]]()

    def watched(part: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(part.shape[2:]))
        return function(part)

    torch.testing.assert_close(tiled(watched, maps, tile=24, overlap=8), function(maps))
    assert max(max(sides) for sides in seen) <= 24
    assert len(seen) == 1 or max(size) > 24


def test_farther_it_is_not() -> None:
    torch.manual_seed(0)
    maps = torch.randn(1, 1, 64, 64, dtype=torch.float64)
    assert (tiled(blurred, maps, tile=24, overlap=4) - blurred(maps)).abs().max() > 1e-3


@pytest.mark.parametrize("overlap", [0, 1, 2, 3, 7])
def test_every_overlap_covers_all(overlap: int) -> None:
    maps = torch.randn(1, 3, 31, 20)
    torch.testing.assert_close(tiled(torch.tanh, maps, tile=8, overlap=overlap), maps.tanh())


def test_overlaps_that_leave_nothing() -> None:
    with pytest.raises(ConfigError, match="cannot overlap by 8"):
        tiled(torch.tanh, torch.zeros(1, 1, 9, 9), tile=8, overlap=8)


@pytest.mark.parametrize("family", ["var", "flexvar", "infinity"])
def test_tokenizers(family: str) -> None:
    """What fits one tile is the same; what does not stays close, within what the tiles' statistics differ by."""
    torch.manual_seed(0)
    tokenizer = build(family, "tiny").tokenizer.eval()
    images = torch.rand(1, 3, 96, 64) * 2 - 1
    with torch.inference_mode():
        latent = tokenizer.encode(images)
        picture = tokenizer.decode(latent)
        in_tiles(tokenizer, 96, 32)
        assert torch.equal(tokenizer.encode(images), latent)
        assert torch.equal(tokenizer.decode(latent, clamp=False).clamp(-1, 1), picture)
        in_tiles(tokenizer, 64, 32)
        encoded, decoded = tokenizer.encode(images), tokenizer.decode(latent)
    assert encoded.shape == latent.shape
    assert decoded.shape == picture.shape
    assert 0 < (encoded - latent).abs().mean() / latent.abs().mean() < 0.5
    assert 0 < (decoded - picture).abs().mean() / picture.abs().mean() < 0.5
