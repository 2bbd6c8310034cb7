"""The mathematics of the parts; what every family promises is `cyclevar plugin check`'s to test."""

from __future__ import annotations

import itertools

import pytest
import torch
from cyclevar_tinybackbone.backbone import TinyBackbone
from cyclevar_tinybackbone.quantizer import GridQuantizer
from torch.testing import assert_close

from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.models.model import Model, build
from cyclevar.core.next_scale.generation import generate
from cyclevar.core.next_scale.pyramid import compose, tokenize
from cyclevar.core.next_scale.translation import translate
from cyclevar.core.schedule import ScaleSchedule


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return build("tinybackbone", "tiny", schedule="1-2-4").eval().requires_grad_(False)


def test_every_code_is_its_own_vector() -> None:
    quantizer = GridQuantizer(3, 4)
    codes = torch.arange(64)
    vectors = quantizer.lookup(codes)
    levels = [-1, -1 / 3, 1 / 3, 1]
    expected = torch.tensor([point[::-1] for point in itertools.product(levels, repeat=3)])
    assert_close(vectors, expected)
    assert torch.equal(quantizer.quantize(vectors.T[None, :, :, None]).codes.flatten(), codes)


def test_quantizing_is_the_nearest_vector() -> None:
    quantizer = GridQuantizer(2, 5)
    maps = torch.rand(2, 2, 3, 3, generator=torch.Generator().manual_seed(0)) * 3 - 1.5
    every = quantizer.lookup(torch.arange(25))
    distances = (maps.movedim(1, -1)[..., None, :] - every).square().sum(-1)
    quantized = quantizer.quantize(maps)
    assert torch.equal(quantized.codes, distances.argmin(-1))
    assert_close(quantized.maps.movedim(1, -1), every[quantized.codes])


def test_every_scale_brings_the_pyramid_nearer(model: Model) -> None:
    latent = model.tokenizer.encode(torch.rand(4, 3, *model.image_size) * 2 - 1)
    maps = tokenize(model.tokenizer, latent, model.schedule).maps
    errors = [
        float((compose(model.tokenizer, [*maps[:k], *map(torch.zeros_like, maps[k:])], model.schedule) - latent).norm())
        for k in range(len(maps) + 1)
    ]
    assert errors == sorted(errors, reverse=True)
    finest = (compose(model.tokenizer, maps, model.schedule) - latent).abs()
    assert float(finest.mean()) < GridQuantizer().step / 2


def test_a_domain_can_be_added_and_a_wrong_one_is_refused(model: Model) -> None:
    backbone = build("tinybackbone", "tiny", schedule="1-2").backbone
    assert isinstance(backbone, TinyBackbone)
    backbone.add_domain("horse", like="noto")
    assert torch.equal(backbone.condition(["horse"]).vector, backbone.condition(["noto"]).vector)
    assert torch.equal(backbone.condition([1]).vector, backbone.condition(["fluent"]).vector)
    with pytest.raises(UnknownNameError, match="did you mean 'horse'"):
        backbone.condition(["horze"])
    with pytest.raises(UnknownNameError, match="no domain named '3'"):
        backbone.condition([3])
    with pytest.raises(ConfigError, match="whose positions it learned"):
        model.backbone([None], model.backbone.condition(["noto"]), ScaleSchedule.square(1, 2))


def test_it_draws_and_translates(model: Model) -> None:
    condition = model.backbone.condition(["noto", "fluent"])
    assert generate(model, condition).image.shape == (2, 3, *model.image_size)
    out = translate(model, torch.zeros(2, 3, *model.image_size), condition, TranslationConfig(mode="serial"))
    assert bool(out.image.isfinite().all())


def test_cache_policies_and_taps_work_on_it(model: Model) -> None:
    assert model.backbone.capabilities == {"cache_policy", "taps"}
