"""Sampling: the recursion run forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces.callbacks import ForcedCodes, ScaleStep
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.generation import (
    Generation,
    generate,
    generate_each,
    noise_generator,
    sampling_config,
    schedule_for,
    schedule_of_ratio,
)
from cyclevar.core.next_scale.pyramid import compose, teacher_inputs, tokenize

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


def test_noise_follows_from_seed_picture_and_scale(model: Model) -> None:
    def draws(seed: int, sample: int, scale: int) -> list[float]:
        return torch.rand(4, generator=noise_generator(seed, sample, scale)).tolist()

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (2**40, 0, 0)]
    assert len({tuple(draws(*key)) for key in keys}) == len(keys)
    assert draws(3, 4, 5) == draws(3, 4, 5)


def test_a_picture_does_not_change_with_its_neighbours(model: Model) -> None:
    settings = {"guidance": 2.0, "top_p": 0.9}
    every = sample(model, 5, targets=(0, 1, 2, 3, 1), **settings)
    alone = sample(model, 5, targets=(3,), samples=[3], **settings)
    turned = sample(model, 5, targets=(1, 3, 0), samples=[1, 3, 0], **settings)
    assert torch.equal(every.codes[-1][3], alone.codes[-1][0])
    for row, other in enumerate((1, 3, 0)):
        assert all(
            torch.equal(codes[row], whole[other]) for codes, whole in zip(turned.codes, every.codes, strict=True)
        )
    assert not torch.equal(every.codes[-1][1], every.codes[-1][4])


def test_batches_change_nothing(model: Model) -> None:
    drawn = [list(generate_each(model, ["cat", 3], 3, batch_size=size, seed=2)) for size in (1, 4, 10)]
    assert [which[:2] for which in drawn[0]] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    for others in drawn[1:]:
        for one, other in zip(drawn[0], others, strict=True):
            assert one[:2] == other[:2]
            assert_close(one[2], other[2], **CLOSE)


def test_pictures_of_one_size_only(model: Model) -> None:
    assert schedule_for(model, (16, 16)) == model.schedule
    with pytest.raises(ConfigError, match=r"var cannot make a picture of 16x24 .*; expected 16x16, the nearest size"):
        schedule_for(model, (16, 24))
    assert schedule_of_ratio(model, 1.1) == model.schedule
    with pytest.raises(ConfigError, match="var cannot make a picture 2 times as wide as high here; expected 1, the"):
        schedule_of_ratio(model, 2)


def test_settings_are_the_models_until_they_are_given(make_model: Callable[..., Model]) -> None:
    model = make_model(sampling={"guidance": 2.0, "top_k": 1})
    assert equal(sample(model), sample(make_model(), guidance=2.0, top_k=1))
    assert sampling_config(model, top_k=[1, 2, 3, 4]).top_k == (1, 2, 3, 4)
    for wrong, problem in (({"top_p": 1.5}, "top_p is 1.5"), ({"top_q": 1}, "did you mean 'top_")):
        with pytest.raises(ConfigError, match=problem):
            sampling_config(model, **wrong)


def test_pictures_of_a_batch_do_not_mix(model: Model) -> None:
    both = sample(model, top_k=1, guidance=2.0)
    alone = sample(model, targets=(1,), top_k=1, guidance=2.0)
    assert_close(both.logits[1:], alone.logits, **CLOSE)


@torch.no_grad()
def test_given_all_codes_it_is_teacher_forcing(model: Model, images: Tensor) -> None:
    pyramid = tokenize(model.tokenizer, model.tokenizer.encode(images), model.schedule)
    out = sample(model, callbacks=[ForcedCodes(lambda step, codes: pyramid.codes[step.scale])])
    assert_close(out.image, model.tokenizer.decode(pyramid.latent), **CLOSE)
    inputs = teacher_inputs(model.tokenizer, pyramid.maps, model.schedule)
    logits = model.backbone(inputs, model.backbone.condition([0, 1]), model.schedule)
    assert_close(out.logits, logits, **CLOSE)


@torch.no_grad()
def test_editing_inside_a_mask(model: Model, images: Tensor) -> None:
    pyramid = tokenize(model.tokenizer, model.tokenizer.encode(images), model.schedule)

    def edit(step: ScaleStep, codes: Tensor) -> Tensor:
        inside = torch.zeros_like(codes, dtype=torch.bool)
        inside[..., : codes.shape[-1] // 2] = True
        return torch.where(inside, codes, pyramid.codes[step.scale])

    out = sample(model, callbacks=[ForcedCodes(edit)])
    for codes, known in zip(out.codes, pyramid.codes, strict=True):
        half = codes.shape[-1] // 2
        assert torch.equal(codes[..., half:], known[..., half:])
    assert not equal(out, replace(out, codes=pyramid.codes))
    maps = [model.tokenizer.quantizer.lookup(codes).movedim(-1, 1) for codes in out.codes]
    assert_close(out.image, model.tokenizer.decode(compose(model.tokenizer, maps, model.schedule)))
