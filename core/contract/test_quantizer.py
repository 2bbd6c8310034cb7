"""What every quantizer promises."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.contract.fixtures import *  # noqa: F403
from cyclevar.core.interfaces.quantizer import Quantized, Quantizer

near = functools.partial(assert_close, atol=1e-4, rtol=1e-4)


@pytest.fixture
def quantized(quantizer: Quantizer) -> Quantized:
    """Random vectors, quantized."""
    return quantizer.quantize(torch.randn(2, quantizer.channels, 4, 5, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def logits(quantizer: Quantizer) -> Tensor:
    return 3 * torch.randn(2, 5, quantizer.logit_dim, generator=torch.Generator().manual_seed(2))


def test_codes_stand_for_the_quantized_vectors(quantizer: Quantizer, quantized: Quantized) -> None:
    vectors = quantizer.lookup(quantized.codes)
    assert vectors.shape == (2, 4, 5, quantizer.channels)
    near(vectors.movedim(-1, 1), quantized.maps)


def test_quantizing_twice_is_quantizing_once(quantizer: Quantizer, quantized: Quantized) -> None:
    assert torch.equal(quantizer.quantize(quantized.maps).codes, quantized.codes)


def test_gradients_pass_straight_through(quantizer: Quantizer, quantized: Quantized) -> None:
    source = (quantized.maps + 0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(quantizer.quantize(source).maps.square().sum(), source)
    assert bool(gradient.isfinite().all())
    assert bool(gradient.any())


def test_the_hard_choice(quantizer: Quantizer, logits: Tensor) -> None:
    hard = quantizer.harden(logits)
    assert hard.maps.shape == (2, 5, quantizer.channels)
    assert_close(hard.maps, quantizer.lookup(hard.codes))
    assert torch.equal(quantizer.sample(logits, top_k=1), hard.codes)


def test_relaxing_lies_between_the_hard_choice_and_the_mean(quantizer: Quantizer, logits: Tensor) -> None:
    near(quantizer.relax(logits, 1e-4), quantizer.harden(logits).maps)
    hot = quantizer.relax(logits, 1e7)
    near(hot, hot[:1, :1].expand_as(hot))
    assert quantizer.relax(logits.bfloat16(), 2.0).dtype == torch.float32


def test_relaxing_follows_the_likelihood(quantizer: Quantizer, logits: Tensor) -> None:
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(quantizer.relax(logits, 2.0).square().sum(), logits)
    assert bool((gradient != 0).any(-1).all())


def test_only_gumbel_draws(quantizer: Quantizer, logits: Tensor) -> None:
    assert torch.equal(quantizer.relax(logits, 2.0), quantizer.relax(logits, 2.0))
    assert not torch.equal(quantizer.relax(logits, 2.0, gumbel=True), quantizer.relax(logits, 2.0, gumbel=True))


def test_the_hard_choice_is_the_likeliest(quantizer: Quantizer, logits: Tensor) -> None:
    best = quantizer.nll(logits, quantizer.harden(logits).codes)
    assert best.shape == (2, 5)
    assert best.dtype == torch.float32
    assert bool((best >= 0).all())
    for seed in range(3):
        drawn = quantizer.sample(logits, generator=torch.Generator().manual_seed(seed))
        assert bool((best <= quantizer.nll(logits, drawn) + 1e-6).all())
        assert torch.equal(drawn, quantizer.sample(logits, generator=torch.Generator().manual_seed(seed)))


def test_entropy_grows_with_the_temperature(quantizer: Quantizer, logits: Tensor) -> None:
    entropies = [quantizer.entropy(logits, temperature) for temperature in (1e-4, 1.0, 3.0, 1e7)]
    assert entropies[0].shape == (2, 5)
    assert_close(entropies[0], torch.zeros(2, 5), atol=1e-3, rtol=0)
    assert all(bool((one <= other + 1e-5).all()) for one, other in itertools.pairwise(entropies))
    near(entropies[-1], entropies[-1][:1, :1].expand(2, 5))
