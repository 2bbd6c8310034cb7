"""What every family promises of sampling and editing."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.contract.fixtures import *  # noqa: F403
from cyclevar.core.interfaces.callbacks import ForcedCodes
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.editing import inpaint, mask_pyramid, redraw
from cyclevar.core.next_scale.generation import generate, generate_each, sampling_config
from cyclevar.core.next_scale.pyramid import Pyramid, teacher_inputs, tokenize

near = functools.partial(assert_close, atol=2e-4, rtol=1e-3)


@pytest.fixture
def mask(images: Tensor) -> Tensor:
    """A quarter of the pictures."""
    mask = torch.zeros(1, 1, *images.shape[-2:], dtype=torch.bool)
    mask[..., : images.shape[-2] // 2, : images.shape[-1] // 2] = True
    return mask


def test_the_seed_decides(model: Model, targets: Sequence[str]) -> None:
    condition = model.backbone.condition(targets)
    draws = [generate(model, condition, guidance=2.0, top_p=0.9, seed=seed).image for seed in (0, 0, 1)]
    assert draws[0].shape == (2, 3, *model.image_size)
    assert float(draws[0].abs().max()) <= 1
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_picture_does_not_change_with_its_neighbours(model: Model, targets: Sequence[str]) -> None:
    condition, alone = model.backbone.condition(targets), model.backbone.condition(targets[1:])
    both = generate(model, condition, guidance=2.0, seed=3)
    one = generate(model, alone, guidance=2.0, seed=3, samples=[1])
    for codes, other in zip(both.codes, one.codes, strict=True):
        assert torch.equal(codes[1:], other)
    near(both.image[1:], one.image)


def test_batches_change_nothing(model: Model, targets: Sequence[str]) -> None:
    singly, together = (list(generate_each(model, targets, 2, batch_size=size, seed=1)) for size in (1, 4))
    for (*which, image), (*others, other) in zip(singly, together, strict=True):
        assert which == others
        near(image, other)


def test_no_guidance_is_none(model: Model, targets: Sequence[str]) -> None:
    condition = model.backbone.condition(targets)
    neutral = sampling_config(model).no_guidance
    plain = generate(model, condition, guidance=neutral, top_k=1)
    guided = generate(model, condition, guidance=[*[neutral] * (len(model.schedule) - 1), neutral + 1], top_k=1)
    before = model.schedule.spans[-1][0]
    near(guided.logits[:, :before], plain.logits[:, :before])
    assert not torch.allclose(guided.logits[:, before:], plain.logits[:, before:], atol=1e-2)


def test_given_all_codes_it_is_teacher_forcing(model: Model, pyramid: Pyramid, targets: Sequence[str]) -> None:
    condition, neutral = model.backbone.condition(targets), sampling_config(model).no_guidance
    known = ForcedCodes(lambda step, drawn: pyramid.codes[step.scale])
    out = generate(model, condition, guidance=neutral, callbacks=[known])
    inputs = teacher_inputs(model.tokenizer, pyramid.maps, model.schedule)
    near(out.logits, model.backbone(inputs, condition, model.schedule))
    near(out.image, model.tokenizer.decode(pyramid.latent))


def test_with_nothing_to_redo_the_codes_are_the_pictures(
    model: Model, images: Tensor, pyramid: Pyramid, targets: Sequence[str]
) -> None:
    nothing = [torch.zeros(1, *size, dtype=torch.bool) for size in model.schedule.sizes]
    out = redraw(model, images, nothing, model.backbone.condition(targets))
    for codes, known in zip(out.codes, pyramid.codes, strict=True):
        assert torch.equal(codes, known)


def test_what_lies_outside_of_the_mask_stays(
    model: Model, images: Tensor, mask: Tensor, targets: Sequence[str]
) -> None:
    condition = model.backbone.condition(targets)
    out = inpaint(model, images, mask, condition, guidance=2.0)
    outside = ~mask.expand_as(images)
    assert torch.equal(out[outside], images[outside])
    assert not torch.equal(out, images)
    other = inpaint(model, images, mask, condition, guidance=2.0, seed=1)
    assert not torch.equal(out, other)
    finest = mask_pyramid(mask, model.schedule)[-1]
    assert 0 < int(finest.sum()) < finest.numel()


def test_gradients_reach_every_parameter_of_the_backbone(
    model: Model, pyramid: Pyramid, targets: Sequence[str]
) -> None:
    """By next-scale prediction, the start token and the null condition included."""
    model = copy.deepcopy(model)
    backbone = model.backbone.requires_grad_(True)
    inputs = teacher_inputs(model.tokenizer, pyramid.maps, model.schedule)
    condition = backbone.condition(targets)
    codes = torch.cat([part.flatten(1, 2) for part in pyramid.codes], dim=1)
    for drop in ([False, False], [False, True]):
        logits = backbone(inputs, condition.dropped(torch.tensor(drop)), model.schedule)
        model.tokenizer.quantizer.nll(logits, codes).mean().backward(retain_graph=True)
    for name, parameter in backbone.named_parameters():
        if parameter.numel():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
            assert bool(parameter.grad.any()), name


def test_gradients_reach_every_parameter_of_the_tokenizer(model: Model, images: Tensor) -> None:
    """By reconstruction, and by what its codes make at every scale."""
    model = copy.deepcopy(model)
    tokenizer = model.tokenizer.requires_grad_(True)
    latent = tokenizer.encode(images)
    pyramid = tokenize(tokenizer, latent, model.schedule)
    loss = torch.stack(
        [
            (tokenizer.decode(view.latent, clamp=False) - view.images).square().mean()
            for view in tokenizer.views(pyramid.maps, model.schedule, images, latent)
        ]
    ).sum()
    for made, wanted in tokenizer.approximations(latent, pyramid.codes, model.schedule):
        loss = loss + (made - wanted).square().mean()
    loss.backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), name


def test_published_names_are_a_bijection(model: Model) -> None:
    if model.official is None:
        pytest.skip(f"{model.family} has no published files")
    exported = model.export_official()
    for part, state in exported.items():
        table = getattr(model.official, part)
        published = [name for names in table.names.values() for name in ([names] if isinstance(names, str) else names)]
        assert len(set(published)) == len(published)
        assert not set(published) & set(table.derived)
        assert state.keys() == {*published, *table.derived}
