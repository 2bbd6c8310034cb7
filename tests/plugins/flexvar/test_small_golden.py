"""What of the golden numbers ships with the repository (tools/derive_small_golden.py); needs no folder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.next_scale.pyramid import compose, resize, teacher_inputs, tokenize
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.flexvar.config import FlexVarTokenizerConfig
from cyclevar.plugins.flexvar.tokenizer import FlexVarTokenizer

CLOSE = {"atol": 5e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def tokenizer(info: dict[str, Any], tensors: dict[str, Tensor]) -> FlexVarTokenizer:
    """The published code book, around a convolutional network that is not used."""
    vae = info["config"]["vae"]
    config = FlexVarTokenizerConfig(
        codebook_size=vae["codebook_size"],
        channels=vae["codebook_embed_dim"],
        z_channels=32,
        width=32,
        multipliers=(1,),
        residual_blocks=1,
    )
    tokenizer = FlexVarTokenizer(config, ScaleSchedule.square(*info["config"]["patch_nums"]))
    with torch.no_grad():
        tokenizer.quantizer.codebook.copy_(tensors["tokenizer.quantize.embedding.weight"])
    return tokenizer


@torch.no_grad()
def test_every_scale_is_quantized_by_itself(tokenizer: FlexVarTokenizer, tensors: dict[str, Tensor]) -> None:
    schedule = tokenizer.default_schedule
    pyramid = tokenize(tokenizer, tensors["out.enc_latent"], schedule)
    for k, (codes, part) in enumerate(zip(pyramid.codes, pyramid.maps, strict=True)):
        assert torch.equal(codes.flatten(1), tensors[f"out.idx_{k}"])
        assert_close(part, tensors[f"out.quant_{k}"], **CLOSE)
    inputs = teacher_inputs(tokenizer, pyramid.maps, schedule)
    packed = schedule.pack([part for part in inputs if part is not None], first=1)
    assert_close(packed, tensors["out.var_input"], **CLOSE)


@torch.no_grad()
def test_another_schedule(info: dict[str, Any], tokenizer: FlexVarTokenizer, tensors: dict[str, Tensor]) -> None:
    """It ends above the latent's size, which `tokenize` refuses; scale by scale it is what the published code does."""
    schedule = ScaleSchedule.square(*info["config"]["alt"])
    parts = [tokenizer.quantizer.quantize(resize(tensors["out.enc_latent"], size, "area")) for size in schedule.sizes]
    for k, part in enumerate(parts):
        assert torch.equal(part.codes.flatten(1), tensors[f"out.alt_idx_{k}"])
    inputs = teacher_inputs(tokenizer, [part.maps for part in parts], schedule)
    packed = schedule.pack([part for part in inputs if part is not None], first=1)
    assert_close(packed, tensors["out.alt_var_input"], **CLOSE)


@torch.no_grad()
def test_relaxing_and_blending(info: dict[str, Any], tokenizer: FlexVarTokenizer, tensors: dict[str, Tensor]) -> None:
    schedule, a = tokenizer.default_schedule, info["config"]["mix"]
    maps = schedule.unpack(tokenizer.quantizer.relax(tensors["cycle.par_replace_logits"], info["config"]["tau"]))
    source = tensors[f"cycle.F_{len(schedule) - 1}"]
    latent = a * compose(tokenizer, maps, schedule) + (1 - a) * source
    assert_close(latent, tensors["cycle.par_replace_E"], **CLOSE)
