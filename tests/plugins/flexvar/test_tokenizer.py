"""FlexVAR's tokenizer: scales that know nothing of each other, unit vectors, lessons at random sizes."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import cast

import torch
import torch.nn.functional as F
from torch.testing import assert_close

from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.pyramid import tokenize
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.flexvar.tokenizer import FlexVarTokenizer


@torch.no_grad()
def test_a_scale_replaces_the_ones_before(model: Model) -> None:
    tokenizer, latent = model.tokenizer, torch.randn(2, 8, 4, 4)
    state = replace(tokenizer.begin(2, model.schedule), scale=1, value=torch.randn(2, 8, 1, 1))
    assert_close(tokenizer.target(latent, state), F.adaptive_avg_pool2d(latent, 2))
    part = torch.randn(2, 8, 2, 2)
    following = tokenizer.absorb(state, part)
    assert torch.equal(following.value, part)
    wanted = F.interpolate(part, size=(4, 4), mode="bicubic")
    read = tokenizer.next_input(following)
    assert read is not None
    assert_close(read, wanted)
    assert_close(tokenizer.latent(following), wanted)


@torch.no_grad()
def test_every_scale_is_a_picture_of_its_own(model: Model) -> None:
    pyramid = tokenize(model.tokenizer, torch.randn(2, 8, 4, 4), model.schedule)
    for part in pyramid.maps:
        assert_close(part.norm(dim=1), torch.ones(2, *part.shape[-2:]))
        assert model.tokenizer.decode(part).shape == (2, 3, 2 * part.shape[-2], 2 * part.shape[-1])


def test_gradients_pass_straight_to_the_unit_vector_of_each_scale(model: Model) -> None:
    latent = torch.randn(2, 8, 4, 4, requires_grad=True)
    pyramid = tokenize(model.tokenizer, latent, model.schedule)
    for k, part in enumerate(model.tokenizer.context(pyramid.maps, model.schedule, latent)):
        weight = torch.randn_like(part)
        target = F.normalize(F.adaptive_avg_pool2d(latent, part.shape[-2:]), dim=1)
        (expected,) = torch.autograd.grad((target * weight).sum(), latent)
        (gradient,) = torch.autograd.grad((part * weight).sum(), latent, retain_graph=True)
        assert_close(gradient, expected)
        assert_close(part, pyramid.maps[k])


def test_code_book_and_encoder_learn_from_every_scale(model: Model) -> None:
    tokenizer, latent = model.tokenizer, torch.randn(2, 8, 4, 4, requires_grad=True)
    pyramid = tokenize(tokenizer, latent, model.schedule)
    codebook = tokenizer.quantizer.get_parameter("codebook")
    for codes, (made, wanted) in zip(
        pyramid.codes, tokenizer.approximations(latent, pyramid.codes, model.schedule), strict=True
    ):
        (to_codes,) = torch.autograd.grad((made - wanted.detach()).square().sum(), codebook, retain_graph=True)
        assert set(to_codes.norm(dim=1).nonzero().flatten().tolist()) == set(codes.flatten().tolist())
        (to_latent,) = torch.autograd.grad((made.detach() - wanted).square().sum(), latent, retain_graph=True)
        assert bool(to_latent.any())


def test_random_sizes(model: Model) -> None:
    tokenizer = cast(FlexVarTokenizer, model.tokenizer)
    for full, count in ((ScaleSchedule.square(1, 16), 5), (ScaleSchedule(((1, 1), (3, 12))), 5), (model.schedule, 4)):
        tokenizer.default_schedule = full
        drawn = [tokenizer.training_schedule(Random(f"{i}")) for i in range(100)]
        assert all(schedule.full == full.full and len(schedule) == count for schedule in drawn)
        longest = {max(size) for schedule in drawn for size in schedule.sizes}
        assert longest == set(range(1, max(full.full) + 1))


def test_lessons_are_pictures_at_the_size_of_their_scale(model: Model) -> None:
    images = torch.rand(2, 3, 8, 8)
    pyramid = tokenize(model.tokenizer, torch.randn(2, 8, 4, 4), model.schedule)
    for part, view in zip(pyramid.maps, model.tokenizer.views(pyramid.maps, model.schedule, images), strict=True):
        assert torch.equal(view.latent, part)
        height, width = (2 * side for side in part.shape[-2:])
        assert_close(view.images, F.adaptive_avg_pool2d(images, (height, width)))


def test_without_codes_the_decoder_reads_unit_vectors(model: Model) -> None:
    latent = torch.randn(2, 8, 4, 4)
    assert_close(model.tokenizer.unquantized(latent), latent / latent.norm(dim=1, keepdim=True))
