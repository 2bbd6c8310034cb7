"""What of the golden numbers ships with the repository (tools/derive_small_golden.py); needs no folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.model import Model, build
from cyclevar.core.pyramid import compose, teacher_inputs, tokenize
from cyclevar.plugins.infinity.config import InfinityConfig, InfinityTokenizerConfig
from cyclevar.plugins.infinity.tokenizer import InfinityTokenizer

CLOSE = {"atol": 5e-4, "rtol": 1e-4}
DATA = Path(__file__).parent / "data"
PRESETS = ["2b", "8b", "layer12", "layer16", "layer24", "layer32", "layer40", "layer48"]


@pytest.fixture(scope="module")
def info() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "small.json").read_text())
    return found


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return load_file(DATA / "small.safetensors")


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


@pytest.mark.parametrize("preset", PRESETS)
def test_every_published_name_and_shape(info: dict[str, Any], preset: str) -> None:
    check_names(build("infinity", preset, initialize=False), info, "backbone", f"infinity_{preset}")


@pytest.mark.parametrize("bits", [16, 24, 32, 64])
def test_every_published_tokenizer(info: dict[str, Any], bits: int) -> None:
    model = build("infinity", "layer12", initialize=False, tokenizer={"bits": bits}, backbone={"depth": 4, "chunks": 1})
    check_names(model, info, "tokenizer", f"infinity_vae_d{bits}")


def test_the_published_tokenizer_of_8_pixels(info: dict[str, Any]) -> None:
    model = build("infinity", "8b", initialize=False, backbone={"depth": 4, "chunks": 1})
    check_names(model, info, "tokenizer", "infinity_vae_d14_patch8")


def check_names(model: Model, info: dict[str, Any], part: str, name: str) -> None:
    exported = model.export_official()[part]
    names = {n: [list(t.shape), str(t.dtype).removeprefix("torch.")] for n, t in exported.items()}
    assert hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest() == info["names"][name]
