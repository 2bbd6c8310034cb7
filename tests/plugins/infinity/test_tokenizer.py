"""Infinity's tokenizer: the recursion written out, folded cells, bits flipped for self-correction."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from cyclevar.core.errors import ConfigError
from cyclevar.core.models.model import Model, build
from cyclevar.core.next_scale.pyramid import compose, teacher_inputs, tokenize
from cyclevar.core.schedule import ScaleSchedule

MakeModel = Callable[..., Model]
FOLDED: dict[str, Any] = {"backbone": {"spatial_patchify": True}}


@pytest.fixture
def folded(make_model: MakeModel) -> Model:
    return make_model(**FOLDED)


@torch.no_grad()
def test_the_recursion_written_out(model: Model) -> None:
    latent = torch.randn(2, 6, 4, 4)
    pyramid = tokenize(model.tokenizer, latent, model.schedule)
    built = torch.zeros_like(latent)
    for k, side in enumerate((1, 2, 4)):
        left = F.adaptive_avg_pool2d(latent - built, side)
        bits = (left > 0).permute(0, 2, 3, 1)
        assert torch.equal(pyramid.codes[k], bits)
        code = torch.where(bits, 6**-0.5, -(6**-0.5)).permute(0, 3, 1, 2)
        built = built + F.interpolate(code, size=(4, 4), mode="bilinear")
    assert_close(pyramid.latent, built)
    inputs = teacher_inputs(model.tokenizer, pyramid.maps, model.schedule)
    state = compose(model.tokenizer, pyramid.maps[:2], ScaleSchedule.square(1, 2, 4))
    assert inputs[2] is not None
    assert_close(inputs[2], state)


def test_the_size_of_cells(model: Model, folded: Model) -> None:
    assert (model.tokenizer.stride, folded.tokenizer.stride) == (2, 4)
    assert (model.image_size, folded.image_size) == ((8, 8), (16, 16))
    assert model.tokenizer.encode(torch.zeros(1, 3, 8, 8)).shape == (1, 6, 4, 4)
    assert folded.tokenizer.encode(torch.zeros(1, 3, 16, 16)).shape == (1, 6, 8, 8)
    assert folded.backbone.logit_dim == 4 * model.backbone.logit_dim == 48


@torch.no_grad()
def test_folding_changes_the_layout_and_nothing_else(model: Model, folded: Model) -> None:
    latent = torch.randn(2, 6, 8, 8)
    fine = ScaleSchedule.square(2, 4, 8)
    plain = tokenize(model.tokenizer, latent, fine)
    pyramid = tokenize(folded.tokenizer, latent, folded.schedule)
    assert_close(pyramid.latent, plain.latent)
    for one, other in zip(pyramid.maps, plain.maps, strict=True):
        assert one.shape[1] == 24
        assert_close(folded.tokenizer.as_latent(one), other)
    context = model.tokenizer.context(plain.maps, fine)
    for one, other in zip(context, folded.tokenizer.context(pyramid.maps, folded.schedule), strict=True):
        assert_close(F.pixel_unshuffle(one, 2), other)
    grown = folded.tokenizer.upsample(pyramid.maps[0], (4, 4))
    assert_close(F.pixel_shuffle(grown, 2), F.interpolate(plain.maps[0], size=(8, 8), mode="bilinear"))


def test_the_patch_is_what_the_levels_make() -> None:
    with pytest.raises(ConfigError, match=r"expected patch 4, which unshuffle 1 and 3 multipliers make"):
        build("infinity", "2b", tokenizer={"multipliers": [1, 2, 4]}, initialize=False)


def test_a_share_of_the_bits_is_flipped(make_model: MakeModel) -> None:
    tokenizer = make_model(tokenizer={"flip_strength": 0.3, "flip_scales": 2}).tokenizer
    codes = torch.zeros(4, 20, 20, 6, dtype=torch.bool)
    shares = [float(tokenizer.corrupt(codes, 1, Random(seed)).float().mean()) for seed in range(200)]
    assert sum(shares) / 200 == pytest.approx(0.15, abs=0.02)
    assert max(shares) < 0.33
    assert min(shares) < 0.01
    assert torch.equal(tokenizer.corrupt(codes, 1, Random(3)), tokenizer.corrupt(codes, 1, Random(3)))
    assert torch.equal(tokenizer.corrupt(codes, 2, Random(3)), codes)


@torch.no_grad()
def test_after_flips_the_right_codes_correct_them(make_model: MakeModel) -> None:
    model = make_model(tokenizer={"flip_strength": 1.0})
    latent = torch.randn(2, 6, 4, 4)
    pyramid = tokenize(model.tokenizer, latent, model.schedule, corrupt=Random(5))
    state = model.tokenizer.begin(2, model.schedule)
    flipped = 0
    for codes, part in zip(pyramid.codes, pyramid.maps, strict=True):
        target = model.tokenizer.target(latent, state)
        assert torch.equal(codes, model.tokenizer.quantizer.quantize(target).codes)
        flipped += int((part.movedim(1, -1) > 0).ne(codes).sum())
        state = model.tokenizer.absorb(state, part)
    assert flipped > 10
    assert_close(pyramid.latent, state.value)
    again = tokenize(model.tokenizer, latent, model.schedule, corrupt=Random(5))
    assert all(torch.equal(one, other) for one, other in zip(pyramid.maps, again.maps, strict=True))


def test_tiny_can_start_from_the_autoencoder_of_var() -> None:
    shapes = [
        {
            name: tensor.shape
            for name, tensor in build(family, "tiny", initialize=False).tokenizer.state_dict().items()
            if name.startswith(("encoder.", "decoder."))
        }
        for family in ("infinity", "var")
    ]
    assert shapes[0] == shapes[1]


def test_tiny_is_small() -> None:
    model = build("infinity", "tiny", initialize=False)
    assert 2 * sum(tensor.numel() for tensor in model.state_dict().values()) < 12e6  # bytes in half precision
    assert model.image_size == (64, 64)
