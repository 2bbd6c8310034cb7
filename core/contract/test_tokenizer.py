"""What every tokenizer promises."""

from __future__ import annotations

import functools
from random import Random

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.contract.fixtures import *  # noqa: F403
from cyclevar.core.errors import ConfigError
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.pyramid import Pyramid, compose, teacher_inputs, tokenize
from cyclevar.core.schedule import ScaleSchedule

near = functools.partial(assert_close, atol=1e-4, rtol=1e-4)


def test_pictures_come_back_in_their_size_and_range(model: Model, images: Tensor, latent: Tensor) -> None:
    tokenizer = model.tokenizer
    decoded = tokenizer.decode(latent)
    assert decoded.shape == images.shape
    assert float(decoded.abs().max()) <= 1
    assert_close(tokenizer.decode(latent, clamp=False).clamp(-1, 1), decoded)
    height, width = model.schedule.full
    assert images.shape[-2:] == (height * tokenizer.stride, width * tokenizer.stride)
    assert latent.shape[:2] == (2, tokenizer.channels)


def test_pictures_of_a_batch_do_not_mix(model: Model, images: Tensor, latent: Tensor, pyramid: Pyramid) -> None:
    near(model.tokenizer.encode(images[1:]), latent[1:])
    alone = model.tokenizer.context([part[1:] for part in pyramid.maps], model.schedule)
    for part, other in zip(alone, model.tokenizer.context(pyramid.maps, model.schedule), strict=True):
        near(part, other[1:])


def test_the_recursion_has_the_sizes_of_the_schedule_and_is_pure(
    model: Model, latent: Tensor, pyramid: Pyramid
) -> None:
    tokenizer, schedule = model.tokenizer, model.schedule
    state = tokenizer.begin(2, schedule)
    assert state.scale == 0
    given = latent.clone()
    for k, (part, size) in enumerate(zip(pyramid.maps, schedule.sizes, strict=True)):
        assert state.size == size
        assert tuple(part.shape[-2:]) == size
        value, map_before = state.value.clone(), part.clone()
        assert tokenizer.target(latent, state).shape == part.shape
        read = tokenizer.next_input(state)
        assert (read is None) == (k == 0)
        assert read is None or read.shape == part.shape
        if k:
            assert tokenizer.latent(state).shape == latent.shape
        following, again = tokenizer.absorb(state, part), tokenizer.absorb(state, part)
        assert torch.equal(following.value, again.value)
        assert torch.equal(state.value, value)
        assert torch.equal(part, map_before)
        assert (state.scale, following.scale) == (k, k + 1)
        state = following
    assert torch.equal(latent, given)
    assert torch.equal(tokenizer.latent(state), pyramid.latent)


def test_composing_the_maps_gives_the_quantized_latent(model: Model, pyramid: Pyramid) -> None:
    assert torch.equal(compose(model.tokenizer, pyramid.maps, model.schedule), pyramid.latent)
    last = compose(model.tokenizer, pyramid.maps, model.schedule, last_only=True)
    assert last.shape == pyramid.latent.shape


def test_no_input_tells_of_its_own_or_a_finer_scale(model: Model, pyramid: Pyramid) -> None:
    before = teacher_inputs(model.tokenizer, pyramid.maps, model.schedule)
    assert before[0] is None
    for changed in range(len(model.schedule)):
        maps = [-part if k == changed else part for k, part in enumerate(pyramid.maps)]
        after = teacher_inputs(model.tokenizer, maps, model.schedule)
        for one, other in zip(before[1 : changed + 1], after[1 : changed + 1], strict=True):
            assert one is not None
            assert other is not None
            assert torch.equal(one, other)


def test_the_last_context_is_the_quantized_latent(model: Model, pyramid: Pyramid) -> None:
    context = model.tokenizer.context(pyramid.maps, model.schedule)
    assert [tuple(part.shape[-2:]) for part in context] == list(model.schedule.sizes)
    near(model.tokenizer.as_latent(context[-1]), pyramid.latent)


def test_gradients_pass_straight_through_the_context(model: Model, latent: Tensor, pyramid: Pyramid) -> None:
    source = latent.clone().requires_grad_()
    context = model.tokenizer.context(pyramid.maps, model.schedule, latent=source)
    for part, plain in zip(context, model.tokenizer.context(pyramid.maps, model.schedule), strict=True):
        near(part, plain)
        (gradient,) = torch.autograd.grad(part.square().sum(), source, retain_graph=True)
        assert bool(gradient.isfinite().all())
        assert bool(gradient.any())


def test_gradients_reach_the_pictures(model: Model, images: Tensor) -> None:
    source = images.clone().requires_grad_()
    output = model.tokenizer.decode(model.tokenizer.encode(source), clamp=False)
    (gradient,) = torch.autograd.grad(output.square().sum(), source)
    assert bool(gradient.isfinite().all())
    assert bool(gradient.any())


def test_maps_grow_to_any_finer_scale(model: Model, pyramid: Pyramid) -> None:
    for part in pyramid.maps:
        for height, width in model.schedule.sizes:
            if height >= part.shape[-2]:
                grown = model.tokenizer.upsample(part, (height, width))
                assert grown.shape == (*part.shape[:2], height, width)
    near(model.tokenizer.upsample(pyramid.maps[-1], model.schedule.full), pyramid.maps[-1])


def test_a_schedule_that_ends_elsewhere_is_refused(model: Model, latent: Tensor) -> None:
    shorter = ScaleSchedule(model.schedule.sizes[:-1])
    with pytest.raises(ConfigError, match=r"builds a latent of .*; expected .*, the size of the pictures"):
        tokenize(model.tokenizer, latent, shorter)


def test_what_training_asks_for(model: Model, images: Tensor, latent: Tensor) -> None:
    tokenizer = model.tokenizer
    schedule = tokenizer.training_schedule(Random("1"))
    assert schedule == tokenizer.training_schedule(Random("1"))
    assert schedule.full == model.schedule.full
    source = latent.clone().requires_grad_()
    pyramid = tokenize(tokenizer, source, schedule)
    views = tokenizer.views(pyramid.maps, schedule, images, source)
    assert torch.equal(views[-1].images, images)
    for view in views:
        assert tokenizer.decode(view.latent).shape == view.images.shape
        (gradient,) = torch.autograd.grad(view.latent.square().sum(), source, retain_graph=True)
        assert bool(gradient.isfinite().all())
    near(views[-1].latent, pyramid.latent)
    for made, wanted in tokenizer.approximations(source, pyramid.codes, schedule):
        assert made.shape == wanted.shape
    near(made, pyramid.latent)
    assert tokenizer.decode(tokenizer.unquantized(latent)).shape == images.shape


def test_the_default_schedule_is_the_models(model: Model) -> None:
    assert isinstance(model.tokenizer.default_schedule, ScaleSchedule)
    assert model.tokenizer.default_schedule == model.schedule
