"""What of the golden numbers ships with the repository (tools/derive_small_golden.py); needs no folder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.next_scale.pyramid import compose, teacher_inputs, tokenize
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.var.config import VarTokenizerConfig
from cyclevar.plugins.var.official import tokenizer_names
from cyclevar.plugins.var.tokenizer import VarTokenizer, phi_index
from cyclevar.quantizers.sampling import filter_logits

CLOSE = {"atol": 5e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def tokenizer(info: dict[str, Any], tensors: dict[str, Tensor]) -> VarTokenizer:
    """The published code book and phi convolutions, around a convolutional network that is not used."""
    vae, schedule = info["config"]["vae"], ScaleSchedule.square(*info["config"]["patch_nums"])
    config = VarTokenizerConfig(
        codebook_size=vae["vocab_size"],
        channels=vae["z_channels"],
        width=32,
        multipliers=(1,),
        residual_blocks=1,
        phi_count=vae["share_quant_resi"],
        phi_ratio=vae["quant_resi"],
    )
    tokenizer = VarTokenizer(config, schedule)
    names = tokenizer_names(config, schedule).names
    ours = {own: tensors.get(f"tokenizer.{name}") for own, name in names.items()}
    unexpected = tokenizer.load_state_dict({n: t for n, t in ours.items() if t is not None}, strict=False)[1]
    assert not unexpected
    assert sum(tensor is not None for tensor in ours.values()) == 9
    return tokenizer


@torch.no_grad()
def test_the_recursion(tokenizer: VarTokenizer, tensors: dict[str, Tensor]) -> None:
    schedule = tokenizer.default_schedule
    pyramid = tokenize(tokenizer, tensors["out.enc_latent"], schedule)
    state = tokenizer.begin(2, schedule)
    for k, (codes, part) in enumerate(zip(pyramid.codes, pyramid.maps, strict=True)):
        assert torch.equal(codes.flatten(1), tensors[f"out.idx_{k}"])
        state = tokenizer.absorb(state, part)
        assert_close(tokenizer.latent(state), tensors[f"out.fhat_{k}"], **CLOSE)
    inputs = teacher_inputs(tokenizer, pyramid.maps, schedule)
    packed = schedule.pack([part for part in inputs if part is not None], first=1)
    assert_close(packed, tensors["out.var_input"], **CLOSE)


@torch.no_grad()
def test_relaxing_and_blending(info: dict[str, Any], tokenizer: VarTokenizer, tensors: dict[str, Tensor]) -> None:
    schedule, a = tokenizer.default_schedule, info["config"]["mix"]
    maps = schedule.unpack(tokenizer.quantizer.relax(tensors["cycle.par_replace_logits"], info["config"]["tau"]))
    for k, part in enumerate(maps):
        assert_close(part, tensors[f"cycle.par_replace_R_{k}"], **CLOSE)
    source = tensors[f"cycle.F_{len(schedule) - 1}"]
    latent = a * compose(tokenizer, maps, schedule) + (1 - a) * source
    assert_close(latent, tensors["cycle.par_replace_E"], **CLOSE)


@torch.no_grad()
def test_the_source_at_every_size(tokenizer: VarTokenizer, tensors: dict[str, Tensor]) -> None:
    schedule, latent = tokenizer.default_schedule, tensors["out.enc_latent"]
    pyramid = tokenize(tokenizer, latent, schedule)
    for k, part in enumerate(tokenizer.context(pyramid.maps, schedule, latent=latent)):
        assert_close(part, tensors[f"cycle.F_{k}"], **CLOSE)


@pytest.mark.parametrize(("name", "top_k", "top_p"), [("k5", 5, 0.0), ("p80", 0, 0.8), ("k9_p60", 9, 0.6)])
def test_the_filters(tensors: dict[str, Tensor], name: str, top_k: int, top_p: float) -> None:
    assert_close(filter_logits(tensors["out.samp_logits"], top_k, top_p), tensors[f"out.samp_masked_{name}"])


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_the_phi_table(info: dict[str, Any], count: int) -> None:
    for scales, expected in info["phi"][str(count)].items():
        assert list(phi_index(int(scales), count)) == expected
