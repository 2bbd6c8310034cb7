"""Filtering logits and drawing from them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from cyclevar.quantizers.sampling import draw, filter_logits, gumbel_noise


def logits_of(probabilities: list[float]) -> Tensor:
    return torch.tensor(probabilities).log()


def kept(logits: Tensor, top_k: int = 0, top_p: float = 0.0) -> list[int]:
    filtered = filter_logits(logits, top_k, top_p)
    assert_close(filtered[filtered.isfinite()], logits[filtered.isfinite()])
    return filtered.isfinite().nonzero().flatten().tolist()


def test_zero_switches_a_filter_off() -> None:
    logits = torch.randn(4, 7)
    assert torch.equal(filter_logits(logits), logits)
    assert torch.equal(filter_logits(logits, 7, 1.0), logits)
    assert torch.equal(filter_logits(logits, 100), logits)


def test_top_k() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0])
    assert kept(logits, 1) == [1]
    assert kept(logits, 3) == [1, 2, 3]


def test_top_k_keeps_ties() -> None:
    assert kept(torch.tensor([1.0, 2.0, 1.0, 0.0]), 2) == [0, 1, 2]


def test_top_p_keeps_the_smallest_set_that_exceeds_it() -> None:
    logits = logits_of([0.5, 0.05, 0.3, 0.15])
    assert kept(logits, top_p=0.4) == [0]
    assert kept(logits, top_p=0.6) == [0, 2]
    assert kept(logits, top_p=0.9) == [0, 2, 3]
    assert kept(logits, top_p=0.99) == [0, 1, 2, 3]


def test_top_p_always_keeps_the_most_probable() -> None:
    assert kept(logits_of([0.2, 0.5, 0.3]), top_p=1e-6) == [1]


def test_top_p_counts_what_top_k_left() -> None:
    # of the two that stay, renormalised to 5/8 and 3/8, the first alone exceeds one half
    logits = logits_of([0.5, 0.3, 0.2])
    assert kept(logits, top_p=0.55) == [0, 1]
    assert kept(logits, 2, 0.55) == [0]


@given(st.integers(0, 6), st.sampled_from([0.0, 0.3, 0.7, 0.95]), st.integers(0, 1000))
def test_filters_keep_the_most_probable_and_rows_apart(top_k: int, top_p: float, seed: int) -> None:
    logits = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(seed))
    given_logits = logits.clone()
    filtered = filter_logits(logits, top_k, top_p)
    assert torch.equal(logits, given_logits)
    assert torch.equal(filtered.argmax(-1), logits.argmax(-1))
    for i in range(3):
        assert torch.equal(filtered[i], filter_logits(logits[i], top_k, top_p))
    least_kept = filtered.masked_fill(filtered == -math.inf, math.inf).amin(-1, keepdim=True)
    assert bool(((filtered == -math.inf) == (logits < least_kept)).all())


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.1, 0.6, 0.3])
    codes = draw(probabilities.log().expand(20_000, 3), torch.Generator().manual_seed(0))
    frequencies = codes.bincount(minlength=3) / len(codes)
    assert_close(frequencies, probabilities, atol=0.015, rtol=0)


def test_draws_keep_the_shape_and_repeat_with_the_generator() -> None:
    logits = torch.randn(2, 3, 5, 11)
    codes = draw(logits, torch.Generator().manual_seed(3))
    assert codes.shape == (2, 3, 5)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, draw(logits, torch.Generator().manual_seed(3)))
    assert not torch.equal(codes, draw(logits, torch.Generator().manual_seed(4)))


def test_what_was_filtered_out_is_never_drawn() -> None:
    logits = torch.randn(500, 9)
    codes = draw(filter_logits(logits, top_k=3), torch.Generator().manual_seed(0))
    ranks = (logits > logits.gather(-1, codes[:, None])).sum(-1)
    assert int(ranks.max()) == 2


@pytest.mark.usefixtures("seeded")
def test_gumbel_noise_turns_the_largest_into_a_draw() -> None:
    probabilities = torch.tensor([0.1, 0.6, 0.3])
    logits = probabilities.log().expand(20_000, 3)
    noise = gumbel_noise(logits)
    assert bool(noise.isfinite().all())
    assert_close(noise.mean(), torch.tensor(0.5772), atol=0.02, rtol=0)
    frequencies = (logits + noise).argmax(-1).bincount(minlength=3) / len(logits)
    assert_close(frequencies, probabilities, atol=0.015, rtol=0)


@pytest.fixture
def seeded() -> None:
    torch.manual_seed(0)


def test_a_generator_a_picture_keeps_pictures_apart() -> None:
    logits = torch.randn(3, 4, 5, 11)

    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = draw(logits, generators(7, 8, 9))
    assert torch.equal(together[[2, 0]], draw(logits[[2, 0]], generators(9, 7)))
    assert not torch.equal(together[:1], draw(logits[:1], generators(8)))
