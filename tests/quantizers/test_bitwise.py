"""The bitwise quantizer: one bit a channel, relaxed bit by bit."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.errors import ConfigError
from cyclevar.quantizers.bitwise import BitwiseQuantizer, Kind

KINDS: tuple[Kind, ...] = ("bsq", "lfq")


@pytest.fixture(params=KINDS)
def quantizer(request: pytest.FixtureRequest) -> BitwiseQuantizer:
    return BitwiseQuantizer(5, request.param)


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(2))


def every_code(bits: int) -> Tensor:
    return torch.tensor(list(itertools.product([False, True], repeat=bits)))


def test_a_bit_is_set_above_zero(quantizer: BitwiseQuantizer, maps: Tensor) -> None:
    maps[0, 2] = 0
    out = quantizer.quantize(maps)
    assert torch.equal(out.codes, maps.permute(0, 2, 3, 1) > 0)
    assert not out.codes[0, ..., 2].any()
    size = 1 / math.sqrt(5) if quantizer.kind == "bsq" else 1.0
    assert_close(out.maps.abs(), torch.full_like(maps, size))
    assert_close(out.maps, quantizer.lookup(out.codes).movedim(-1, 1))


def test_the_nearest_code_is_chosen(quantizer: BitwiseQuantizer, maps: Tensor) -> None:
    vectors = quantizer.lookup(every_code(5))
    distances = (maps.permute(0, 2, 3, 1)[..., None, :] - vectors).square().sum(-1)
    assert torch.equal(quantizer.quantize(maps).codes, every_code(5)[distances.argmin(-1)])


def test_bsq_codes_are_unit_vectors_whatever_the_length(maps: Tensor) -> None:
    quantizer = BitwiseQuantizer(5)
    out = quantizer.quantize(maps)
    assert_close(out.maps.norm(dim=1), torch.ones(2, 3, 4))
    assert torch.equal(out.codes, quantizer.quantize(maps * (torch.rand(2, 1, 3, 4) + 0.1)).codes)


def test_gradients_pass_straight_through(quantizer: BitwiseQuantizer, maps: Tensor) -> None:
    maps.requires_grad_()
    weight = torch.randn_like(maps)
    (gradient,) = torch.autograd.grad((quantizer.quantize(maps).maps * weight).sum(), maps)
    continuous = F.normalize(maps, dim=1) if quantizer.kind == "bsq" else maps
    (expected,) = torch.autograd.grad((continuous * weight).sum(), maps)
    assert_close(gradient, expected)


def test_folded_cells_are_quantized_each_by_itself() -> None:
    latent = torch.randn(2, 5, 6, 8)
    one, four = BitwiseQuantizer(5), BitwiseQuantizer(5, cells=4)
    assert (four.channels, four.logit_dim) == (20, 40)
    folded = four.quantize(F.pixel_unshuffle(latent, 2))
    plain = one.quantize(latent)
    assert_close(F.pixel_shuffle(folded.maps, 2), plain.maps)
    assert torch.equal(F.pixel_shuffle(folded.codes.movedim(-1, 1), 2), plain.codes.movedim(-1, 1))


def test_logits_are_pairs_of_a_cleared_and_a_set_bit(quantizer: BitwiseQuantizer) -> None:
    logits = torch.tensor([[0.0, 9, 9, 0, 0, 9, 9, 0, 9, 0]])
    hard = quantizer.harden(logits)
    assert hard.codes.tolist() == [[True, False, True, False, False]]
    assert_close(quantizer.relax(logits, 0.01), hard.maps)


def test_relaxing_is_the_expected_code(quantizer: BitwiseQuantizer, logits: Tensor) -> None:
    codes = every_code(5)
    likelihoods = torch.stack([(-quantizer.nll(logits / 2, code.expand(2, 6, 5))).exp() for code in codes], dim=-1)
    assert_close(likelihoods.sum(-1), torch.ones(2, 6))
    out = quantizer.relax(logits, 2.0)
    assert_close(out, likelihoods @ quantizer.lookup(codes))
    assert out.dtype == quantizer.relax(logits.bfloat16(), 2.0).dtype == torch.float32
    hot = quantizer.relax(logits, 1e7)
    assert_close(hot, torch.zeros_like(hot), atol=1e-5, rtol=0)  # not normalized again


def test_entropy_is_that_of_the_whole_code(quantizer: BitwiseQuantizer, logits: Tensor) -> None:
    pairs = (logits / 2).unflatten(-1, (5, 2)).softmax(-1)
    expected = torch.distributions.Categorical(pairs).entropy().sum(-1)
    assert_close(quantizer.entropy(logits, 2.0), expected)
    assert_close(quantizer.entropy(logits, 1e7), torch.full((2, 6), 5 * math.log(2)))


def test_only_gumbel_draws(quantizer: BitwiseQuantizer, logits: Tensor) -> None:
    assert torch.equal(quantizer.relax(logits, 2.0), quantizer.relax(logits, 2.0))
    assert not torch.equal(quantizer.relax(logits, 2.0, gumbel=True), quantizer.relax(logits, 2.0, gumbel=True))


def test_sampling_draws_every_bit_by_its_own_odds(quantizer: BitwiseQuantizer) -> None:
    logits = torch.tensor([0.0, 0, 0, 2, 2, 0, 0, 50, 1, 0]).expand(1, 20000, 10)
    drawn = quantizer.sample(logits, generator=torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.bool
    odds = torch.tensor([0.0, 2, -2, 50, -1]).sigmoid()
    assert_close(drawn.float().mean((0, 1)), odds, atol=0.015, rtol=0)
    filtered = quantizer.sample(logits, top_p=0.7, generator=torch.Generator().manual_seed(0)).float().mean((0, 1))
    assert_close(filtered, torch.tensor([0.5, 1, 0, 1, 0]), atol=0.015, rtol=0)
    assert torch.equal(quantizer.sample(logits, top_k=1)[0, :, 1:], quantizer.harden(logits).codes[0, :, 1:])


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperatures_are_positive(quantizer: BitwiseQuantizer, logits: Tensor, temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"temperature .* out of range; expected a temperature above 0; use `harden`"):
        quantizer.relax(logits, temperature)


def test_low_precision_surroundings_change_no_code(quantizer: BitwiseQuantizer, maps: Tensor) -> None:
    expected = quantizer.quantize(maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = quantizer.quantize(maps)
    assert torch.equal(out.codes, expected.codes)
    assert torch.equal(out.maps, expected.maps)
