"""The multi-scale recursion: pure, and the same whichever way it is run."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.pyramid import Pyramid, compose, teacher_inputs, tokenize


@pytest.fixture
def latent(model: Model, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.tokenizer.encode(images)


@pytest.fixture
def pyramid(model: Model, latent: Tensor) -> Pyramid:
    return tokenize(model.tokenizer, latent, model.schedule)


@torch.no_grad()
def test_composing_the_maps_gives_the_latent_that_tokenizing_gave(model: Model, pyramid: Pyramid) -> None:
    assert torch.equal(compose(model.tokenizer, pyramid.maps, model.schedule), pyramid.latent)


@torch.no_grad()
def test_the_maps_are_the_vectors_of_the_codes(model: Model, pyramid: Pyramid) -> None:
    for codes, part, size in zip(pyramid.codes, pyramid.maps, model.schedule.sizes, strict=True):
        assert codes.dtype == torch.int64
        assert tuple(codes.shape[1:]) == size
        assert_close(part, model.tokenizer.quantizer.lookup(codes).movedim(-1, 1))


@torch.no_grad()
def test_each_scale_quantizes_what_the_coarser_ones_left(model: Model, latent: Tensor, pyramid: Pyramid) -> None:
    tokenizer, schedule = model.tokenizer, model.schedule
    for k, size in enumerate(schedule.sizes):
        silent = [part if i < k else torch.zeros_like(part) for i, part in enumerate(pyramid.maps)]
        state = tokenizer.begin(2, schedule)
        for part in silent[:k]:
            state = tokenizer.absorb(state, part)
        rest = F.interpolate(latent - tokenizer.latent(state), size=size, mode="area")
        assert torch.equal(tokenizer.quantizer.quantize(rest).codes, pyramid.codes[k])


@torch.no_grad()
def test_a_state_is_never_changed(model: Model, pyramid: Pyramid) -> None:
    state = model.tokenizer.begin(2, model.schedule)
    for part in pyramid.maps:
        value, given = state.value.clone(), part.clone()
        model.tokenizer.next_input(state)
        model.tokenizer.latent(state)
        following = model.tokenizer.absorb(state, part)
        again = model.tokenizer.absorb(state, part)
        assert torch.equal(state.value, value)
        assert torch.equal(part, given)
        assert torch.equal(following.value, again.value)
        assert following.scale == state.scale + 1
        state = following
    with pytest.raises(FrozenInstanceError):
        state.scale = 0  # type: ignore[misc]


@torch.no_grad()
def test_teacher_inputs_are_what_the_states_say(model: Model, pyramid: Pyramid) -> None:
    inputs = teacher_inputs(model.tokenizer, pyramid.maps, model.schedule)
    state = model.tokenizer.begin(2, model.schedule)
    for given, part in zip(inputs, pyramid.maps, strict=True):
        read = model.tokenizer.next_input(state)
        if given is None or read is None:
            assert given is read is None
            assert state.scale == 0
        else:
            assert torch.equal(given, read)
            assert tuple(given.shape[-2:]) == state.size
        state = model.tokenizer.absorb(state, part)


@torch.no_grad()
@pytest.mark.parametrize("changed", range(4))
def test_no_teacher_input_tells_of_its_own_or_a_finer_scale(model: Model, pyramid: Pyramid, changed: int) -> None:
    maps = [part + 1.0 if k == changed else part for k, part in enumerate(pyramid.maps)]
    before = teacher_inputs(model.tokenizer, pyramid.maps, model.schedule)[1:]
    after = teacher_inputs(model.tokenizer, maps, model.schedule)[1:]
    for k, (a, b) in enumerate(zip(before, after, strict=True), start=1):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b) == (k <= changed)


@torch.no_grad()
def test_the_last_map_alone(model: Model, pyramid: Pyramid) -> None:
    tokenizer, schedule = model.tokenizer, model.schedule
    alone = compose(tokenizer, pyramid.maps, schedule, last_only=True)
    empty = replace(tokenizer.begin(2, schedule), scale=len(schedule) - 1)
    assert torch.equal(alone, tokenizer.latent(tokenizer.absorb(empty, pyramid.maps[-1])))
    others = [part + 1.0 for part in pyramid.maps[:-1]]
    assert torch.equal(alone, compose(tokenizer, [*others, pyramid.maps[-1]], schedule, last_only=True))
    before_last = tokenizer.begin(2, schedule)
    for part in pyramid.maps[:-1]:
        before_last = tokenizer.absorb(before_last, part)
    assert_close(tokenizer.latent(before_last) + alone, pyramid.latent, atol=1e-5, rtol=1e-5)


def test_tokenizing_carries_no_gradient_and_the_context_all_of_it(model: Model, latent: Tensor) -> None:
    latent = latent.clone().requires_grad_()
    pyramid = tokenize(model.tokenizer, latent, model.schedule)
    assert not any(tensor.requires_grad for tensor in (*pyramid.maps, pyramid.latent))
    context = model.tokenizer.context(pyramid.maps, model.schedule, latent=latent)
    assert_close(context[-1], pyramid.latent)
    weights = [torch.randn_like(part) for part in context]
    total = torch.stack([(part * weight).sum() for part, weight in zip(context, weights, strict=True)]).sum()
    (gradient,) = torch.autograd.grad(total, latent)
    # straight through the quantizer: as if the context were the latent itself, averaged to each size
    through = [F.interpolate(latent, size=size, mode="area") for size in model.schedule.sizes]
    total = torch.stack([(part * weight).sum() for part, weight in zip(through, weights, strict=True)]).sum()
    (expected,) = torch.autograd.grad(total, latent)
    assert_close(gradient, expected)
