"""Training a tokenizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.data.batches import UnpairedBatches, stack
from cyclevar.core.data.datasets import open_dataset
from cyclevar.core.interfaces.quantizer import CodebookQuantizer
from cyclevar.core.models.model import Model, build
from cyclevar.core.next_scale.pyramid import round_trip, tokenize
from cyclevar.core.training.optim import descend
from cyclevar.core.training.stream import step_random
from cyclevar.core.training.tasks.codebook import collect_targets, fit_codebook, quantizer_loss
from cyclevar.core.training.tasks.tokenizer import TokenizerTask, psnr

Make = Callable[..., TokenizerTask]


@pytest.fixture
def make(model: Model, tokenizer_config: PretrainConfig, pictures: Path, perceptual: Any, accelerator: Any) -> Make:
    """A tokenizer's training without a run folder; keywords change settings."""

    def make(**changes: Any) -> TokenizerTask:
        config = tokenizer_config.tokenizer.model_copy(update=changes)
        dataset = open_dataset(pictures)
        assert dataset.validation is not None
        a, b = (stack(part, 16) for part in dataset.validation)
        batches = UnpairedBatches(dataset.train, config.batch_size // 2, 16)
        torch.manual_seed(0)
        return TokenizerTask(model.tokenizer, config, batches, (a, b), 0, (perceptual, perceptual), accelerator)

    return make


def test_the_signal_to_noise_ratio_of_each_picture() -> None:
    images = torch.zeros(3, 3, 2, 2)
    noisy = images + torch.tensor([0.2, 2.0, 0.0]).view(3, 1, 1, 1)
    assert psnr(noisy, images).tolist() == pytest.approx([20.0, 0.0, 10 * math.log10(4e10)], rel=1e-5)


def test_the_quantizer_loss_by_hand(model: Model) -> None:
    tokenizer, latent = model.tokenizer, torch.randn(2, 8, 4, 4)
    pyramid = tokenize(tokenizer, latent, model.schedule)
    loss, error = quantizer_loss(tokenizer, latent, pyramid.codes, model.schedule, commitment=0.25)
    partial, by_hand = tokenizer.begin(2, model.schedule), 0.0
    for part in pyramid.maps:
        partial = tokenizer.absorb(partial, part)
        by_hand += 1.25 * (partial.value - latent).square().mean().item() / 3
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    assert error.item() == pytest.approx(((pyramid.latent - latent).square().sum() / latent.square().sum()).item())


def test_the_quantizer_loss_trains_code_book_and_encoder(model: Model) -> None:
    latent = torch.randn(2, 8, 4, 4, requires_grad=True)
    codebook = model.tokenizer.quantizer.get_parameter("codebook")
    for commitment, reaches_latent in ((0.0, False), (0.25, True)):
        pyramid = tokenize(model.tokenizer, latent, model.schedule)
        loss, _ = quantizer_loss(model.tokenizer, latent, pyramid.codes, model.schedule, commitment)
        to_codes, to_latent = torch.autograd.grad(loss, [codebook, latent])
        used = torch.cat([codes.flatten() for codes in pyramid.codes]).unique()
        assert to_codes[used].norm(dim=1).min() > 0
        assert to_codes.norm(dim=1).count_nonzero() == len(used)
        assert bool(to_latent.norm() > 0) is reaches_latent


def as_identity(model: Model) -> Model:
    model.tokenizer.start_quantizing()
    return model


def test_k_means_fits_the_code_book(model: Model) -> None:
    tokenizer, latents = as_identity(model).tokenizer, torch.randn(40, 8, 4, 4)
    coder = tokenizer.quantizer
    assert isinstance(coder, CodebookQuantizer)

    def error() -> float:
        return (tokenize(tokenizer, latents, model.schedule).latent - latents).square().mean().item()

    errors = [error()]
    for iterations in (2, 12):
        fit_codebook(tokenizer, coder, latents, iterations, torch.Generator().manual_seed(0))
        errors.append(error())
    assert errors == sorted(errors, reverse=True)


def test_the_targets_are_what_the_coarser_scales_left_over(model: Model) -> None:
    latents = torch.randn(3, 8, 4, 4)
    first, second, third = collect_targets(as_identity(model).tokenizer, latents)
    assert [len(first), len(second), len(third)] == [3 * 1, 3 * 4, 3 * 16]
    torch.testing.assert_close(first, latents.mean((2, 3)))
    codes = model.tokenizer.quantizer.quantize(latents.mean((2, 3), keepdim=True)).maps
    left = nn.functional.adaptive_avg_pool2d(latents - codes, 2)
    torch.testing.assert_close(second, left.permute(0, 2, 3, 1).flatten(0, 2))


def test_the_stages_follow_each_other(make: Make) -> None:
    task = make()
    figures = [task.update(step) for step in range(17)]
    assert [step for step, one in enumerate(figures) if "latent_error" in one] == list(range(5, 13))
    assert [step for step, one in enumerate(figures) if "perceptual" in one] == list(range(8, 17))
    assert [step for step, one in enumerate(figures) if "discriminator" in one] == [13, 14, 15, 16]
    assert [step for step, one in enumerate(figures) if "adversarial" in one] == [15, 16]
    assert all(math.isfinite(value) for one in figures for value in one.values())


def test_the_code_book_starts_from_the_pictures(make: Make) -> None:
    task = make()
    for step in range(5):
        task.update(step)
    before = task.tokenizer.quantizer.get_parameter("codebook").clone()
    task._start_quantizing()
    assert not torch.equal(task.tokenizer.quantizer.get_parameter("codebook"), before)
    average = task.ema.module.state_dict()
    assert all(torch.equal(value, average[name]) for name, value in task.tokenizer.state_dict().items())


def test_the_finish_trains_the_averaged_decoder_and_leaves_the_codes(make: Make) -> None:
    task = make(autoencoder_steps=1, finish_from=3)
    for step in range(3):
        task.update(step)
    average = {name: value.clone() for name, value in task.ema.module.state_dict().items()}
    images = task.validation[0]
    with torch.no_grad():
        codes = tokenize(task.ema.module, task.ema.module.encode(images), task.tokenizer.default_schedule).codes
    for step in range(3, 6):
        task.update(step)
    moved = {name for name, value in task.tokenizer.state_dict().items() if not torch.equal(value, average[name])}
    assert moved
    assert all(name.startswith(("decoder.", "after_quantizer.")) for name in moved)
    with torch.no_grad():
        again = tokenize(task.tokenizer, task.tokenizer.encode(images), task.tokenizer.default_schedule).codes
    assert all(torch.equal(x, y) for x, y in zip(codes, again, strict=True))


def test_codes_that_nothing_uses_are_refilled(make: Make) -> None:
    task = make(autoencoder_steps=0, refill_every=2)
    codebook = task.tokenizer.quantizer.get_parameter("codebook")
    task.update(0)
    codebook.data[3] = 1e6
    task.usage.get_buffer("hits").zero_()[:3] = 1
    task.update(1)
    assert codebook[3].abs().max() < 1e3
    assert task.usage.get_buffer("hits").sum() == 0


@pytest.fixture
def flexvar(
    flexvar_tokenizer_config: PretrainConfig, pictures: Path, perceptual: Any, accelerator: Any
) -> TokenizerTask:
    """The training of a family whose scales are pictures of their own."""
    config = flexvar_tokenizer_config
    a, b = (stack(part, 16) for part in open_dataset(pictures).validation or ())
    batches = UnpairedBatches(open_dataset(pictures).train, 2, 16)
    torch.manual_seed(0)
    tokenizer = build("flexvar", config.model).tokenizer
    return TokenizerTask(tokenizer, config.tokenizer, batches, (a, b), 3, (perceptual, perceptual), accelerator)


def test_a_family_may_train_on_sizes_of_its_own(flexvar: TokenizerTask, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, decode = list[tuple[int, ...]](), flexvar.tokenizer.decode

    def watched(latent: Tensor, *, clamp: bool = True) -> Tensor:
        decoded.append(tuple(latent.shape[-2:]))
        return decode(latent, clamp=clamp)

    monkeypatch.setattr(flexvar.tokenizer, "decode", watched)
    for step in range(15):
        decoded.clear()
        figures = flexvar.update(step)
        assert all(math.isfinite(value) for value in figures.values())
        if step < 5:
            assert decoded == [(8, 8)]
        else:
            drawn = flexvar.tokenizer.training_schedule(step_random(3, step))
            assert decoded == list(drawn.sizes)
            assert len(decoded) == 5


def test_the_loss_counts_the_full_picture_and_the_mean_of_the_others(
    flexvar: TokenizerTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(5):
        flexvar.update(step)
    flexvar._start_quantizing()
    outputs, decode = list[Tensor](), flexvar.tokenizer.decode

    def watched(latent: Tensor, *, clamp: bool = True) -> Tensor:
        outputs.append(decode(latent, clamp=clamp).detach())
        return decode(latent, clamp=clamp)

    monkeypatch.setattr(flexvar.tokenizer, "decode", watched)
    figures = flexvar.update(6)
    images = torch.cat(flexvar.batches.batch(6))
    losses = [
        float((output - target).abs().mean() + 4 * (output - target).square().mean())
        for output in outputs
        for target in [nn.functional.adaptive_avg_pool2d(images, output.shape[-1])]
    ]
    assert figures["reconstruction"] == pytest.approx(losses[-1] + sum(losses[:-1]) / 4, rel=1e-5)


def test_a_code_book_of_directions_is_fitted(flexvar: TokenizerTask) -> None:
    tokenizer, latents = flexvar.tokenizer, torch.randn(40, 8, 8, 8)
    coder = flexvar.coder
    assert coder is not None

    def error() -> float:
        pairs = tokenizer.approximations(
            latents, tokenize(tokenizer, latents, tokenizer.default_schedule).codes, tokenizer.default_schedule
        )
        with torch.no_grad():
            return sum((made - wanted).square().mean().item() for made, wanted in pairs)

    errors = [error()]
    for iterations in (2, 12):
        fit_codebook(tokenizer, coder, latents, iterations, torch.Generator().manual_seed(0))
        errors.append(error())
    assert errors == sorted(errors, reverse=True)
    torch.testing.assert_close(coder.codebook.norm(dim=1), torch.ones(16))


def test_a_quantizer_without_code_book(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make()
    monkeypatch.setattr(task, "coder", None)
    monkeypatch.setattr("cyclevar.core.training.tasks.tokenizer.fit_codebook", lambda *more: pytest.fail("fitted"))
    codebook = task.tokenizer.quantizer.get_parameter("codebook")
    codebook.requires_grad_(False)
    before = codebook.clone()
    for step in range(8):
        task.update(step)
    assert torch.equal(codebook, before)


def test_the_adversarial_part_has_its_share_of_the_gradient(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the picture, its gradient is ``adversarial`` times as large as the reconstruction's."""
    task = make(autoencoder_steps=0, finish_from=1, adversarial_after=0, perceptual_from=99, finish_perceptual=0.0)
    task.update(0)
    outputs, gradients = list[Tensor](), list[Tensor]()
    decode = task.tokenizer.decode

    def watched_decode(latent: Tensor, *, clamp: bool = True) -> Tensor:
        outputs.append(decode(latent, clamp=clamp))
        return outputs[-1]

    def watched_descend(accelerator: Any, losses: Any, *settings: Any) -> Tensor:
        def watched() -> Iterator[Tensor]:
            for loss in losses:
                gradients.extend(torch.autograd.grad(loss, outputs[-1], retain_graph=True))
                yield loss

        return descend(accelerator, losses if gradients else watched(), *settings)  # the tokenizer's comes first

    monkeypatch.setattr(task.tokenizer, "decode", watched_decode)
    monkeypatch.setattr("cyclevar.core.training.tasks.tokenizer.descend", watched_descend)
    task.update(1)
    output = outputs[0].detach().requires_grad_()
    difference = output - torch.cat(task.stream.batch(1))
    [plain] = torch.autograd.grad(difference.abs().mean() + 4 * difference.square().mean(), output)
    assert (gradients[0] - plain).norm().item() == pytest.approx(0.3 * plain.norm().item(), rel=1e-3)


def test_validation_is_of_the_average_and_skips_the_codes_while_there_are_none(make: Make) -> None:
    task = make()
    average, images = task.ema.module, task.validation[0]
    state = torch.get_rng_state()
    with torch.no_grad():
        plain, coded = average.decode(average.encode(images)), round_trip(average, images)
    assert task.validate(5)["psnr_a"] == pytest.approx(psnr(plain, images).mean().item())
    assert task.validate(6)["psnr_a"] == pytest.approx(psnr(coded, images).mean().item())
    assert [tuple(row.shape) for row in task.sample(6)] == [(8, 3, 16, 16)] * 4
    assert torch.equal(torch.get_rng_state(), state)
