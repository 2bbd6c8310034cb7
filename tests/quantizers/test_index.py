"""The codebook quantizer: nearest codes, and softmax relaxed quantization between the hard choice and the mean."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.errors import ConfigError
from cyclevar.quantizers.index import IndexQuantizer, Metric

METRICS: tuple[Metric, ...] = ("euclidean", "cosine")


@pytest.fixture(params=METRICS)
def quantizer(request: pytest.FixtureRequest) -> IndexQuantizer:
    return make(request.param)


def make(metric: Metric, size: int = 17, channels: int = 5) -> IndexQuantizer:
    torch.manual_seed(0)
    quantizer = IndexQuantizer(size, channels, metric)
    torch.nn.init.normal_(quantizer.codebook)
    return quantizer


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(2, 6, 17, generator=torch.Generator().manual_seed(2))


def test_the_nearest_code_is_found(quantizer: IndexQuantizer, maps: Tensor) -> None:
    out = quantizer.quantize(maps)
    vectors = quantizer.vectors().double()
    positions = maps.double().permute(0, 2, 3, 1)
    if quantizer.metric == "cosine":
        positions = F.normalize(positions, dim=-1)
    distances = (positions[..., None, :] - vectors).square().sum(-1)
    assert torch.equal(out.codes, distances.argmin(-1))
    assert out.codes.shape == (2, 3, 4)
    assert_close(out.maps, quantizer.lookup(out.codes).permute(0, 3, 1, 2))


@pytest.mark.parametrize("metric", METRICS)
def test_of_equally_near_codes_the_first_wins(metric: Metric) -> None:
    quantizer = make(metric, size=6)
    axes = torch.eye(5)  # so that no product is rounded
    rows = torch.stack([axes[0], axes[1], -axes[0], axes[2], axes[1], axes[0]])
    with torch.no_grad():
        quantizer.codebook.copy_(rows)
    codes = quantizer.quantize(rows.T[None, :, :, None]).codes
    assert codes.flatten().tolist() == [0, 1, 2, 3, 1, 0]
    between = (axes[3] + axes[4])[None, :, None, None]  # as far from the first code as from any
    assert quantizer.quantize(between).codes.item() == 0


def test_codes_quantize_to_themselves(quantizer: IndexQuantizer) -> None:
    codes = torch.arange(17).view(1, 1, 17)
    out = quantizer.quantize(quantizer.lookup(codes).movedim(-1, 1))
    assert torch.equal(out.codes, codes)


def test_cosine_ignores_lengths(maps: Tensor) -> None:
    quantizer = make("cosine")
    before = quantizer.quantize(maps)
    assert_close(before.maps.norm(dim=1), torch.ones(2, 3, 4))
    with torch.no_grad():
        quantizer.codebook *= torch.rand(17, 1) + 0.5
    after = quantizer.quantize(maps * (torch.rand(2, 1, 3, 4) + 0.5))
    assert torch.equal(before.codes, after.codes)
    assert_close(before.maps, after.maps)


def test_euclidean_gradients_pass_straight_through(maps: Tensor) -> None:
    quantizer = make("euclidean")
    maps.requires_grad_()
    weight = torch.randn_like(maps)
    (quantizer.quantize(maps).maps * weight).sum().backward()
    assert maps.grad is not None
    assert torch.equal(maps.grad, weight)
    assert quantizer.codebook.grad is None


def test_cosine_gradients_pass_straight_to_the_unit_vector(maps: Tensor) -> None:
    quantizer = make("cosine")
    maps.requires_grad_()
    weight = torch.randn_like(maps)
    (gradient,) = torch.autograd.grad((quantizer.quantize(maps).maps * weight).sum(), maps)
    (expected,) = torch.autograd.grad((F.normalize(maps, dim=1) * weight).sum(), maps)
    assert_close(gradient, expected)


def test_lookup_trains_the_codebook() -> None:
    quantizer = make("euclidean")
    quantizer.lookup(torch.tensor([3, 3, 5])).sum().backward()
    assert quantizer.codebook.grad is not None
    assert quantizer.codebook.grad.sum(1).tolist() == [10.0 if i == 3 else 5.0 if i == 5 else 0.0 for i in range(17)]


def test_relaxing_is_the_expected_code(quantizer: IndexQuantizer, logits: Tensor) -> None:
    out = quantizer.relax(logits, 2.0)
    weights = (logits / 2).exp() / (logits / 2).exp().sum(-1, keepdim=True)
    assert_close(weights.sum(-1), torch.ones(2, 6))
    assert_close(out, torch.einsum("blv,vc->blc", weights, quantizer.vectors()))
    assert out.dtype == quantizer.relax(logits.bfloat16(), 2.0).dtype == torch.float32


def test_relaxing_does_not_see_a_common_shift(quantizer: IndexQuantizer, logits: Tensor) -> None:
    assert_close(quantizer.relax(logits, 2.0), quantizer.relax(logits + torch.randn(2, 6, 1), 2.0))


def test_cold_relaxing_is_the_hard_choice(quantizer: IndexQuantizer, logits: Tensor) -> None:
    hard = quantizer.harden(logits)
    assert torch.equal(hard.codes, logits.argmax(-1))
    assert_close(quantizer.relax(logits, 1e-4), hard.maps)
    assert_close(hard.maps, quantizer.lookup(hard.codes))


def test_hot_relaxing_is_the_mean_code(quantizer: IndexQuantizer, logits: Tensor) -> None:
    assert_close(quantizer.relax(logits, 1e7), quantizer.vectors().mean(0).expand(2, 6, 5))


def test_relaxing_trains_the_logits_and_no_codebook(quantizer: IndexQuantizer, logits: Tensor) -> None:
    logits.requires_grad_()
    quantizer.relax(logits, 2.0).square().sum().backward()
    assert logits.grad is not None
    assert bool((logits.grad != 0).all())
    assert_close(logits.grad.sum(-1), torch.zeros(2, 6), atol=1e-5, rtol=0)
    assert quantizer.codebook.grad is None


def test_only_gumbel_draws(quantizer: IndexQuantizer, logits: Tensor) -> None:
    state = torch.get_rng_state()
    assert torch.equal(quantizer.relax(logits, 2.0), quantizer.relax(logits, 2.0))
    assert torch.equal(state, torch.get_rng_state())
    first, second = quantizer.relax(logits, 2.0, gumbel=True), quantizer.relax(logits, 2.0, gumbel=True)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(first, quantizer.relax(logits, 2.0, gumbel=True))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperatures_are_positive(quantizer: IndexQuantizer, logits: Tensor, temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"temperature .* out of range; expected a temperature above 0; use `harden`"):
        quantizer.relax(logits, temperature)


def test_likelihoods_sum_to_one(quantizer: IndexQuantizer, logits: Tensor) -> None:
    every = torch.stack([quantizer.nll(logits, torch.full((2, 6), code)) for code in range(17)])
    assert_close((-every).exp().sum(0), torch.ones(2, 6))
    codes = torch.randint(17, (2, 6))
    expected = -logits.log_softmax(-1).gather(-1, codes[..., None]).squeeze(-1)
    assert_close(quantizer.nll(logits, codes), expected)
    assert quantizer.nll(logits.bfloat16(), codes).dtype == torch.float32


def test_entropy_lies_between_certainty_and_a_fair_draw(quantizer: IndexQuantizer, logits: Tensor) -> None:
    entropies = [quantizer.entropy(logits, t) for t in (1e-4, 0.5, 2.0, 20.0, 1e7)]
    assert_close(entropies[0], torch.zeros(2, 6), atol=1e-5, rtol=0)
    assert_close(entropies[-1], torch.full((2, 6), math.log(17)))
    for colder, hotter in itertools.pairwise(entropies):
        assert bool((colder <= hotter + 1e-6).all())
    probabilities = (logits / 2).softmax(-1)
    assert_close(entropies[2], torch.distributions.Categorical(probabilities).entropy())


def test_sampling_filters_and_repeats(quantizer: IndexQuantizer, logits: Tensor) -> None:
    assert torch.equal(quantizer.sample(logits, top_k=1), logits.argmax(-1))
    drawn = quantizer.sample(logits, 5, 0.9, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 6)
    assert torch.equal(drawn, quantizer.sample(logits, 5, 0.9, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_low_precision_surroundings_change_no_code(maps: Tensor, dtype: torch.dtype) -> None:
    quantizer = make("euclidean", size=400)
    expected = quantizer.quantize(maps)
    with torch.autocast("cpu", dtype=dtype):
        out = quantizer.quantize(maps)
        relaxed = quantizer.relax(torch.randn(2, 400), 2.0)
    assert torch.equal(out.codes, expected.codes)
    assert torch.equal(out.maps, expected.maps)
    assert relaxed.dtype == torch.float32
