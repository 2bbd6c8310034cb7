"""Sampling: the recursion run forward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.errors import ConfigError
from cyclevar.core.generation import Generation, generate
from cyclevar.core.interfaces import ScaleState
from cyclevar.core.model import Model
from cyclevar.core.pyramid import compose, teacher_inputs, tokenize

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def sample(model: Model, seed: int = 0, targets: tuple[int, ...] = (0, 1), **settings: object) -> Generation:
    condition = model.backbone.condition(targets)
    return generate(model, condition, seed=seed, **settings)  # type: ignore[arg-type]


def equal(one: Generation, other: Generation) -> bool:
    return torch.equal(
        torch.cat([c.flatten(1) for c in one.codes], 1), torch.cat([c.flatten(1) for c in other.codes], 1)
    )


def test_shapes(model: Model) -> None:
    out = sample(model)
    assert out.image.shape == (2, 3, 16, 16)
    assert float(out.image.abs().max()) <= 1
    assert [tuple(codes.shape[1:]) for codes in out.codes] == list(model.schedule.sizes)
    assert out.logits.shape == (2, model.schedule.total, 24)
    assert not out.image.requires_grad


def test_the_seed_decides(model: Model) -> None:
    assert equal(sample(model, 0), sample(model, 0))
    assert not equal(sample(model, 0), sample(model, 1))
    state = torch.get_rng_state()
    sample(model, 0)
    assert torch.equal(state, torch.get_rng_state())


def test_greedy_ignores_the_seed(model: Model) -> None:
    out = sample(model, 0, top_k=1)
    assert equal(out, sample(model, 1, top_k=1))
    assert torch.equal(torch.cat([codes.flatten(1) for codes in out.codes], 1), out.logits.argmax(-1))
    assert equal(out, sample(model, 1, temperature=1e-4))


def test_vanishing_guidance_is_none(model: Model) -> None:
    out = sample(model)
    guided = sample(model, guidance=1e-12)
    assert equal(out, guided)
    assert_close(out.logits, guided.logits, **CLOSE)


def test_guidance_away_from_itself_is_none(model: Model) -> None:
    with torch.no_grad():
        model.backbone.get_parameter("class_embedding")[4] = model.backbone.get_parameter("class_embedding")[1]
    out, guided = (sample(model, targets=(1, 1), guidance=strength) for strength in (0.0, 3.0))
    assert equal(out, guided)
    assert_close(out.logits, guided.logits, **CLOSE)


def test_guidance_grows_with_the_scale(model: Model) -> None:
    out, guided = sample(model, top_k=1), sample(model, top_k=1, guidance=5.0)
    assert_close(guided.logits[:, :1], out.logits[:, :1], **CLOSE)
    assert not torch.allclose(guided.logits[:, 1:5], out.logits[:, 1:5], atol=1e-2)


def test_one_number_a_scale(model: Model) -> None:
    out = sample(model, guidance=2.0, temperature=1.5, top_k=5, top_p=0.8)
    spelled = sample(model, guidance=[2.0] * 4, temperature=[1.5] * 4, top_k=[5] * 4, top_p=[0.8] * 4)
    assert equal(out, spelled)
    assert torch.equal(out.logits, spelled.logits)
    first = sample(model, top_k=[1, 0, 0, 0]).codes[0]
    assert torch.equal(first, sample(model, top_k=1).codes[0])
    with pytest.raises(ConfigError, match="temperature has 3 values; expected one, or 4: one a scale of 1-2-3-4"):
        sample(model, temperature=[1.0] * 3)


def test_temperature_divides_the_logits(model: Model) -> None:
    assert_close(sample(model, temperature=2.0).logits[:, :1], sample(model).logits[:, :1] / 2)


def test_pictures_of_a_batch_do_not_mix(model: Model) -> None:
    both = sample(model, top_k=1, guidance=2.0)
    alone = sample(model, targets=(1,), top_k=1, guidance=2.0)
    assert_close(both.logits[1:], alone.logits, **CLOSE)


@torch.no_grad()
def test_given_all_codes_it_is_teacher_forcing(model: Model, images: Tensor) -> None:
    pyramid = tokenize(model.tokenizer, model.tokenizer.encode(images), model.schedule)
    out = sample(model, edit=lambda state, codes: pyramid.codes[state.scale])
    assert_close(out.image, model.tokenizer.decode(pyramid.latent), **CLOSE)
    inputs = teacher_inputs(model.tokenizer, pyramid.maps, model.schedule)
    logits = model.backbone(inputs, model.backbone.condition([0, 1]), model.schedule)
    assert_close(out.logits, logits, **CLOSE)


@torch.no_grad()
def test_editing_inside_a_mask(model: Model, images: Tensor) -> None:
    pyramid = tokenize(model.tokenizer, model.tokenizer.encode(images), model.schedule)

    def edit(state: ScaleState, codes: Tensor) -> Tensor:
        inside = torch.zeros_like(codes, dtype=torch.bool)
        inside[..., : codes.shape[-1] // 2] = True
        return torch.where(inside, codes, pyramid.codes[state.scale])

    out = sample(model, edit=edit)
    for codes, known in zip(out.codes, pyramid.codes, strict=True):
        half = codes.shape[-1] // 2
        assert torch.equal(codes[..., half:], known[..., half:])
    assert not equal(out, Generation(out.image, pyramid.codes, out.logits))
    maps = [model.tokenizer.quantizer.lookup(codes).movedim(-1, 1) for codes in out.codes]
    assert_close(out.image, model.tokenizer.decode(compose(model.tokenizer, maps, model.schedule)))
