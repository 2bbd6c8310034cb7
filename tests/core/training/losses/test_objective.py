"""The generator's objective: values by their definitions, and where gradients go."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.config.training import LossConfig
from cyclevar.core.interfaces.model import Step
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.translation import encode_context, translate
from cyclevar.core.training.losses import objective
from cyclevar.core.training.losses.adversarial import generator_loss
from cyclevar.core.training.losses.reconstruction import AbsoluteDifference, Perceptual, Reconstruction, Reconstructions
from cyclevar.core.training.optim import frozen
from cyclevar.core.training.tasks.discriminators import build_discriminator

TARGETS = ("discs", "squares")
TRANSLATION = TranslationConfig()


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 16, 16, generator=generator) * 1.6 - 0.8 for _ in "ab")
    return a, b


@pytest.fixture
def frozen_model(model: Model) -> Model:
    model.tokenizer.requires_grad_(False)
    return model


@pytest.fixture
def judges() -> list[Any]:
    torch.manual_seed(0)
    return [build_discriminator("patchgan", {"width": 8, "augment": []}).eval() for _ in "ab"]


def pieces(config: LossConfig, distance: Any) -> Reconstructions:
    losses = {"l1": AbsoluteDifference(), "perceptual": Perceptual(distance)}
    return Reconstructions(*(Reconstruction(losses, config.terms(which)) for which in ("cycle", "identity")))


def make_step(
    model: Model,
    images: tuple[Tensor, Tensor],
    judges: Any,
    distance: Any,
    due: Collection[str] = ("gan", "cycle", "identity"),
    **weights: float,
) -> Step:
    [pictures] = objective.read_pictures(model, *images)
    config = LossConfig(**weights)  # type: ignore[arg-type]
    return objective.generator_step(model, pictures, TARGETS, judges, TRANSLATION, pieces(config, distance), due)


def test_two_batched_passes_make_what_eight_single_ones_would(
    frozen_model: Model, images: tuple[Tensor, Tensor], judges: Any, perceptual: Any
) -> None:
    def turned(pictures: Tensor, target: str) -> Tensor:
        condition = frozen_model.backbone.condition([target] * len(pictures))
        return translate(frozen_model, pictures, condition, TRANSLATION).image

    def distance(output: Tensor, wanted: Tensor) -> Tensor:
        return (output - wanted).abs().mean() + 0.5 * perceptual(output, wanted).mean()

    (a, b), (disc, square) = images, TARGETS
    with torch.no_grad():
        step = make_step(frozen_model, images, judges, perceptual, perceptual=0.5)
        fake_a, fake_b = turned(b, disc), turned(a, square)
        cycle = distance(turned(fake_b, disc), a) + distance(turned(fake_a, square), b)
        same = distance(turned(a, disc), a) + distance(turned(b, square), b)
        gan = generator_loss(judges[0](fake_a)) + generator_loss(judges[1](fake_b))
    for got, wanted in zip(step.fakes, (fake_a, fake_b), strict=True):
        torch.testing.assert_close(got, wanted)
    for name, twice in {"cycle": cycle, "identity": same, "gan": gan}.items():
        torch.testing.assert_close(step.losses[name], twice / 2, msg=name)


def test_the_total_is_the_weighted_sum() -> None:
    losses = {"gan": torch.tensor(2.0), "cycle": torch.tensor(3.0)}
    assert objective.total(losses, {"gan": 0.5, "cycle": 0.1}).item() == pytest.approx(1.3)


def test_clamping_keeps_the_gradient_of_saturated_pixels() -> None:
    x = torch.tensor([-3.0, 0.5, 2.0], requires_grad=True)
    y = objective.clamped(x)
    assert y.tolist() == [-1.0, 0.5, 1.0]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


def test_reconstruction_without_a_perceptual_part(perceptual: Any) -> None:
    x, y = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    found = pieces(LossConfig(perceptual=0.0), perceptual)
    assert found.cycle(x, y).item() == pytest.approx(0.5)
    assert found.frozen() == ""


def test_every_loss_reaches_decoder_codes_and_transformer(
    frozen_model: Model, images: tuple[Tensor, Tensor], judges: Any, perceptual: Any
) -> None:
    with frozen(judges[0]), frozen(judges[1]):
        step = make_step(frozen_model, images, judges, perceptual)
    parameters = {
        name: parameter
        for name, parameter in frozen_model.backbone.named_parameters()
        if name not in ("start_position", "domain_embedding")  # F_1 stands in place of the start token; none was added
    }
    for name, loss in step.losses.items():
        to_latent, to_logits = torch.autograd.grad(loss, [step.first.predicted, step.first.logits], retain_graph=True)
        assert to_latent.norm() > 0, name
        assert to_logits.norm() > 0, name
        gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        still = [one for one, gradient in zip(parameters, gradients, strict=True) if not gradient.norm() > 0]
        assert still == [], name


def test_no_loss_reaches_a_tokenizer_parameter_or_a_discriminator(
    frozen_model: Model, images: tuple[Tensor, Tensor], judges: Any, perceptual: Any
) -> None:
    before = {name: value.clone() for name, value in frozen_model.tokenizer.state_dict().items()}
    with frozen(judges[0]), frozen(judges[1]):
        step = make_step(frozen_model, images, judges, perceptual)
    objective.total(step.losses, {"gan": 1.0, "cycle": 0.2, "identity": 0.1}).backward()
    assert all(parameter.grad is None for parameter in frozen_model.tokenizer.parameters())
    assert all(parameter.grad is None for judge in judges for parameter in judge.parameters())
    assert frozen_model.backbone.get_parameter("head.weight").grad is not None
    assert all(torch.equal(value, before[name]) for name, value in frozen_model.tokenizer.state_dict().items())


def test_the_cycle_loss_passes_through_the_frozen_encoder(
    frozen_model: Model, images: tuple[Tensor, Tensor], judges: Any, perceptual: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    encode = frozen_model.tokenizer.encode

    def watched(pictures: Tensor) -> Tensor:
        latent = encode(pictures)
        if pictures.requires_grad:
            seen.append(pictures)
            seen.append(latent)
        return latent

    monkeypatch.setattr(frozen_model.tokenizer, "encode", watched)
    step = make_step(frozen_model, images, judges, perceptual)
    [fakes, latent] = seen  # the first pass encodes real pictures, behind which nothing is trained
    for tensor in (latent, fakes, step.first.predicted):
        [gradient] = torch.autograd.grad(step.losses["cycle"], tensor, retain_graph=True)
        assert gradient.norm() > 0


def test_the_second_pass_is_made_only_when_it_is_asked_for(
    frozen_model: Model, images: tuple[Tensor, Tensor], judges: Any, perceptual: Any
) -> None:
    calls: list[int] = []
    frozen_model.backbone.register_forward_pre_hook(lambda module, given: calls.append(len(given[1])))
    for due, rows in (
        (("gan", "identity"), [8]),
        (("cycle", "identity"), [8, 4]),
        (("gan",), [4]),
        ((), [4]),
        (("cycle",), [4, 4]),
        (("identity",), [4]),
    ):
        calls.clear()
        step = make_step(frozen_model, images, judges, perceptual, due)
        assert set(step.losses) == set(due)
        assert calls == rows, due
        assert [len(fake) for fake in step.fakes] == ([0, 0] if due == ("identity",) else [2, 2])


@pytest.mark.parametrize("name", ["gan", "cycle", "identity"])
def test_a_loss_alone_is_what_it_is_among_the_others(
    frozen_model: Model, images: tuple[Tensor, Tensor], judges: Any, perceptual: Any, name: str
) -> None:
    together = make_step(frozen_model, images, judges, perceptual).losses[name]
    alone = make_step(frozen_model, images, judges, perceptual, (name,)).losses[name]
    torch.testing.assert_close(alone, together)
    head = frozen_model.backbone.get_parameter("head.weight")
    torch.testing.assert_close(*(torch.autograd.grad(loss, head)[0] for loss in (alone, together)))


def test_updates_of_a_step() -> None:
    every = ("gan", "cycle", "identity")
    assert objective.updates("joint", every) == [frozenset(every)]
    assert objective.updates("turbo", every) == [{"cycle"}, {"gan"}, {"identity"}]
    assert objective.updates("turbo", ("gan", "identity")) == [{"gan"}, {"identity"}]
    assert objective.updates("turbo", ("identity",)) == [set(), {"identity"}]  # fakes for the discriminators


def test_chunks_are_read_as_the_whole_is(frozen_model: Model, images: tuple[Tensor, Tensor]) -> None:
    a, b = (torch.cat([part, part.flip(3)])[:3] for part in images)
    [whole] = objective.read_pictures(frozen_model, a, b)
    chunks = objective.read_pictures(frozen_model, a, b, chunk=2)
    assert [len(pictures.a) for pictures in chunks] == [2, 1]
    for scale, part in enumerate(whole.context):
        halves = [pictures.context[scale].chunk(2) for pictures in chunks]
        torch.testing.assert_close(torch.cat([*(a for a, _ in halves), *(b for _, b in halves)]), part)


def test_the_warm_up_error_is_relative(frozen_model: Model, images: tuple[Tensor, Tensor]) -> None:
    context = objective.real_context(frozen_model, *images)
    loss = objective.warmup_loss(frozen_model, context, TARGETS, TRANSLATION)
    larger = objective.warmup_loss(frozen_model, context, TARGETS, TRANSLATION.model_copy(update={"fusion": 1.0}))
    assert loss.item() == pytest.approx(larger.item())  # the source's share does not count
    loss.backward()
    head = frozen_model.backbone.get_parameter("head.weight")
    assert head.grad is not None
    assert head.grad.norm() > 0
    # all maps zero would be an error of 1: fresh weights are near the mean code, so not far from that
    assert 0.3 < loss.item() < 5


def test_codes_are_found_in_float32_under_autocast(frozen_model: Model, images: tuple[Tensor, Tensor]) -> None:
    wanted = encode_context(frozen_model, torch.cat(images))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = objective.real_context(frozen_model, *images)
    assert all(torch.equal(x, y) for x, y in zip(got, wanted, strict=True))
