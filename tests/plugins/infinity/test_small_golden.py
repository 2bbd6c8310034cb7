"""What of the golden numbers ships with the repository (tools/derive_small_golden.py); needs no folder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.next_scale.pyramid import compose, teacher_inputs, tokenize
from cyclevar.plugins.infinity.config import InfinityConfig, InfinityTokenizerConfig
from cyclevar.plugins.infinity.tokenizer import InfinityTokenizer

CLOSE = {"atol": 5e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def tokenizer(info: dict[str, Any]) -> InfinityTokenizer:
    """The published quantizer, around a convolutional network that is not used."""
    config = InfinityTokenizerConfig(
        bits=info["config"]["vae"]["codebook_dim"], width=32, multipliers=(1,), patch=1, residual_blocks=1
    )
    return InfinityTokenizer(config, InfinityConfig.parse_schedule(f"{info['config']['pn']}@1.0"))


@torch.no_grad()
def test_the_recursion(tokenizer: InfinityTokenizer, tensors: dict[str, Tensor]) -> None:
    schedule = tokenizer.default_schedule
    pyramid = tokenize(tokenizer, tensors["out.enc_latent"], schedule)
    for k, codes in enumerate(pyramid.codes):
        assert torch.equal(codes, tensors[f"out.vae_bits_{k}"])
    assert_close(pyramid.latent, tensors["out.vae_z"], **CLOSE)
    inputs = teacher_inputs(tokenizer, pyramid.maps, schedule)
    packed = schedule.pack([part for part in inputs if part is not None], first=1)
    assert_close(packed, tensors["out.var_input"], **CLOSE)


@torch.no_grad()
def test_relaxing_and_blending(info: dict[str, Any], tokenizer: InfinityTokenizer, tensors: dict[str, Tensor]) -> None:
    schedule, a = tokenizer.default_schedule, info["config"]["mix"]
    maps = schedule.unpack(tokenizer.quantizer.relax(tensors["cycle.par_replace_logits"], info["config"]["tau"]))
    source = tensors[f"cycle.F_{len(schedule) - 1}"]
    latent = a * compose(tokenizer, maps, schedule) + (1 - a) * source
    assert_close(latent, tensors["cycle.par_replace_E"], **CLOSE)


@torch.no_grad()
def test_the_source_at_every_size(tokenizer: InfinityTokenizer, tensors: dict[str, Tensor]) -> None:
    schedule, latent = tokenizer.default_schedule, tensors["out.enc_latent"]
    pyramid = tokenize(tokenizer, latent, schedule)
    for k, part in enumerate(tokenizer.context(pyramid.maps, schedule, latent=latent)):
        assert_close(part, tensors[f"cycle.F_{k}"], **CLOSE)
