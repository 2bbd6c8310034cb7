"""The flow of CycleVAR: parallel against serial, special cases, ablations, gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.attention.cache import KeyValueCache
from cyclevar.core.attention.plan import Visibility
from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.interfaces.backbone import Condition
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.generation import generate
from cyclevar.core.next_scale.pyramid import compose, tokenize
from cyclevar.core.next_scale.translation import Prediction, encode_context, predict, translate, translate_context

MakeModel = Callable[..., Model]
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def settings(**values: Any) -> TranslationConfig:
    return TranslationConfig.model_validate(values)


def test_algorithm_1_has_no_reading_with_the_last_scale_alone() -> None:
    with pytest.raises(ValueError, match="output multi"):
        settings(mode="serial", serial="literal", output="last")


@pytest.fixture
def context(model: Model, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return encode_context(model, images)


def run(model: Model, source: Sequence[Tensor], /, **values: Any) -> Prediction:
    with torch.no_grad():
        return predict(model, source, model.backbone.condition([1, 2]), settings(**values))


def scales_that_differ(model: Model, one: Tensor, other: Tensor) -> list[int]:
    """Scales at which two sequences of logits are not equal to rounding."""
    pairs = [(one[:, begin:end], other[:, begin:end]) for begin, end in model.schedule.spans]
    return [scale for scale, (a, b) in enumerate(pairs) if not torch.allclose(a, b, **CLOSE)]


class TestContext:
    """F_1..F_K (Eq. 5)."""

    def test_it_is_the_quantized_latent_at_every_size(self, model: Model, images: Tensor) -> None:
        with torch.no_grad():
            context = encode_context(model, images)
            latent = tokenize(model.tokenizer, model.tokenizer.encode(images), model.schedule).latent
        for part, size in zip(context, model.schedule.sizes, strict=True):
            assert_close(part, F.interpolate(latent, size=size, mode="area"), **CLOSE)

    def test_pictures_of_a_batch_do_not_mix(self, model: Model, images: Tensor, context: list[Tensor]) -> None:
        with torch.no_grad():
            alone = encode_context(model, images[1:])
        for part, other in zip(alone, context, strict=True):
            assert_close(part, other[1:], **CLOSE)


class TestParallelAgainstSerial:
    def serial_features(self, model: Model, out: Prediction, fusion: float) -> list[Tensor | None]:
        """What the backbone read in a serial native run that predicted ``out``."""
        tokenizer = model.tokenizer
        state = tokenizer.begin(2, model.schedule)
        features: list[Tensor | None] = [None]
        for scale, part in enumerate(out.maps[:-1]):
            state = tokenizer.absorb(state, part)
            read = tokenizer.next_input(state)
            assert read is not None
            features.append(fusion * read + (1 - fusion) * out.context[scale + 1])
        return features

    @pytest.mark.parametrize("context_of", ["multi", "last"])
    @torch.no_grad()
    def test_fed_the_same_they_say_the_same(self, model: Model, context: list[Tensor], context_of: str) -> None:
        out = run(model, context, mode="serial", fusion=0.3, context=context_of)
        scales = len(model.schedule)
        visibility = Visibility.causal(scales) if context_of == "multi" else Visibility.last_alone(scales)
        logits = model.backbone(
            self.serial_features(model, out, 0.3),
            model.backbone.condition([1, 2]),
            model.schedule,
            visibility=visibility,
        )
        assert_close(logits, out.logits, **CLOSE)

    @torch.no_grad()
    def test_one_scale_visible_at_a_time(self, model: Model, context: list[Tensor]) -> None:
        backbone, schedule, own = model.backbone, model.schedule, Visibility.own(4)
        condition = backbone.condition([1, 2])
        features = [None, *context[1:]]
        parallel = backbone(features, condition, schedule, visibility=own)
        cache = KeyValueCache(backbone.depth, schedule, own)
        serial = [backbone([part], condition, schedule, first=k, cache=cache) for k, part in enumerate(features)]
        assert_close(parallel, torch.cat(serial, dim=1), **CLOSE)
        alone = [
            backbone([part], condition, schedule, first=k, visibility=own)  # no cache at all
            for k, part in enumerate(features)
        ]
        assert_close(parallel, torch.cat(alone, dim=1), **CLOSE)

    def test_of_one_scale_all_modes_are_one(self, make_model: MakeModel, images: Tensor) -> None:
        model = make_model(schedule="4")
        with torch.no_grad():
            context = encode_context(model, images)
        parallel = run(model, context, start="keep")
        assert_close(run(model, context, mode="serial").latent, parallel.latent, **CLOSE)
        literal = run(model, context, mode="serial", serial="literal")
        assert_close(literal.logits, parallel.logits, **CLOSE)
        assert_close(literal.predicted, parallel.maps[0], **CLOSE)

    def test_the_first_scale_always_agrees(self, model: Model, context: list[Tensor]) -> None:
        parallel = run(model, context, start="keep").logits[:, :1]
        for serial in ("native", "literal"):
            assert_close(run(model, context, mode="serial", serial=serial).logits[:, :1], parallel, **CLOSE)


class TestSerial:
    @torch.no_grad()
    def test_native_at_full_fusion_is_plain_decoding_with_relaxed_codes(
        self, model: Model, context: list[Tensor]
    ) -> None:
        tokenizer: Any = model.tokenizer
        condition = model.backbone.condition([1, 2])
        features: list[Tensor | None] = [None]
        latent = torch.zeros(2, 8, 4, 4)
        phi = [tokenizer.phi[i] for i in (0, 1, 2, 3)]
        for k, (h, w) in enumerate(model.schedule.sizes):
            logits = model.backbone(features, condition, model.schedule)[:, -h * w :]  # all over again, no cache
            soft = (logits / 2).softmax(-1) @ tokenizer.quantizer.codebook
            part = soft.transpose(1, 2).unflatten(2, (h, w))
            whole = F.interpolate(part, size=(4, 4), mode="bicubic") if k < 3 else part
            latent = latent + 0.5 * whole + 0.5 * phi[k](whole)
            if k < 3:
                features.append(F.interpolate(latent, size=model.schedule.sizes[k + 1], mode="area"))
        out = run(model, context, mode="serial", fusion=1.0, temperature=2.0)
        assert_close(out.latent, latent, **CLOSE)
        assert_close(out.logits, model.backbone(features, condition, model.schedule), **CLOSE)

    def test_native_at_full_fusion_forgets_the_source(self, model: Model, context: list[Tensor]) -> None:
        other = [torch.randn_like(part) for part in context]
        assert torch.equal(
            run(model, context, mode="serial", fusion=1.0).latent, run(model, other, mode="serial", fusion=1.0).latent
        )

    def test_cold_native_at_full_fusion_is_greedy_sampling(self, model: Model, context: list[Tensor]) -> None:
        out = run(model, context, mode="serial", fusion=1.0, temperature=1e-4)
        greedy = generate(model, model.backbone.condition([1, 2]), top_k=1)
        assert_close(out.logits, greedy.logits, **CLOSE)
        assert_close(model.tokenizer.decode(out.latent), greedy.image, **CLOSE)

    @torch.no_grad()
    def test_literal_is_algorithm_1(self, model: Model, context: list[Tensor]) -> None:
        a, condition = 0.3, model.backbone.condition([1, 2])
        features: list[Tensor | None] = [None]
        read = torch.zeros(2, 8, 1, 1)
        for k, (h, w) in enumerate(model.schedule.sizes):
            logits = model.backbone(features, condition, model.schedule)[:, -h * w :]
            relaxed = model.tokenizer.quantizer.relax(logits, 2.0).transpose(1, 2).unflatten(2, (h, w))
            mixed = a * (relaxed + read) + (1 - a) * context[k]
            if k < 3:
                read = F.interpolate(mixed, size=model.schedule.sizes[k + 1], mode="bicubic")
                features.append(read)
        out = run(model, context, mode="serial", serial="literal", fusion=a)
        assert_close(out.latent, mixed, **CLOSE)

    def test_blending_tells_the_backbone_of_the_source(self, model: Model, context: list[Tensor]) -> None:
        whole, half = (run(model, context, mode="serial", fusion=fusion) for fusion in (1.0, 0.5))
        assert scales_that_differ(model, whole.logits, half.logits) == [1, 2, 3]


class TestSwitches:
    """Every switch changes what it must, and only that."""

    @pytest.mark.parametrize("mode", ["parallel", "serial"])
    def test_fusion_weighs_the_prediction_against_the_source(
        self, model: Model, context: list[Tensor], mode: str
    ) -> None:
        for fusion in (0.2, 1.0):
            out = run(model, context, mode=mode, fusion=fusion)
            assert_close(out.latent, fusion * out.predicted + (1 - fusion) * context[-1])
            assert_close(out.predicted, compose(model.tokenizer, out.maps, model.schedule).detach())
            assert out.source is context[-1]

    def test_in_parallel_fusion_changes_only_the_blend(self, model: Model, context: list[Tensor]) -> None:
        one, other = run(model, context, fusion=0.2), run(model, context, fusion=0.9)
        assert torch.equal(one.logits, other.logits)
        assert torch.equal(one.predicted, other.predicted)
        assert not torch.equal(one.latent, other.latent)

    def test_temperature_changes_only_the_choice(self, model: Model, context: list[Tensor]) -> None:
        warm, hot = run(model, context), run(model, context, temperature=1e7)
        assert torch.equal(warm.logits, hot.logits)
        mean = model.tokenizer.quantizer.get_parameter("codebook").mean(0)
        for part in hot.maps:
            assert_close(part, mean[None, :, None, None].expand_as(part), **CLOSE)

    def test_at_temperature_zero_the_choice_is_hard(self, model: Model, context: list[Tensor]) -> None:
        out = run(model, context, temperature=1e-4)
        hard = model.schedule.unpack(model.tokenizer.quantizer.harden(out.logits).maps)
        for part, expected in zip(out.maps, hard, strict=True):
            assert_close(part, expected)
        assert_close(out.predicted, compose(model.tokenizer, hard, model.schedule), **CLOSE)

    def test_context_last_blinds_the_finest_scale_alone(self, model: Model, context: list[Tensor]) -> None:
        every, last = run(model, context), run(model, context, context="last")
        assert scales_that_differ(model, every.logits, last.logits) == [3]
        changed = [part if k == 3 else torch.randn_like(part) for k, part in enumerate(context)]
        again = run(model, changed, context="last")
        assert scales_that_differ(model, last.logits, again.logits) == [0, 1, 2]

    def test_output_last_counts_the_finest_map_alone(self, model: Model, context: list[Tensor]) -> None:
        every, last = run(model, context), run(model, context, output="last")
        assert torch.equal(every.logits, last.logits)
        assert_close(last.predicted, compose(model.tokenizer, every.maps, model.schedule, last_only=True).detach())
        assert not torch.allclose(every.predicted, last.predicted, atol=1e-2)
        assert torch.equal(every.source, last.source)

    def test_start_modes(self, model: Model, context: list[Tensor]) -> None:
        outs = {start: run(model, context, start=start) for start in ("replace", "add", "keep")}
        assert scales_that_differ(model, outs["replace"].logits, outs["add"].logits)
        assert scales_that_differ(model, outs["replace"].logits, outs["keep"].logits)
        other = [torch.randn_like(context[0]), *context[1:]]
        assert torch.equal(outs["keep"].logits, run(model, other, start="keep").logits)
        for start in ("replace", "add"):
            assert scales_that_differ(model, outs[start].logits, run(model, other, start=start).logits)

    def test_adding_a_map_that_says_nothing_keeps_the_start_token(self, model: Model, context: list[Tensor]) -> None:
        with torch.no_grad():
            model.backbone.get_parameter("embed.bias").zero_()
        silent = [torch.zeros_like(context[0]), *context[1:]]
        added, kept = run(model, silent, start="add"), run(model, silent, start="keep")
        assert_close(added.logits, kept.logits, **CLOSE)

    def test_finer_sources_do_not_change_coarser_predictions(self, model: Model, context: list[Tensor]) -> None:
        before = run(model, context)
        for k in range(4):
            changed = [torch.randn_like(part) if i == k else part for i, part in enumerate(context)]
            assert scales_that_differ(model, before.logits, run(model, changed).logits) == list(range(k, 4))

    def test_the_target_matters(self, model: Model, context: list[Tensor]) -> None:
        with torch.no_grad():
            other = predict(model, context, model.backbone.condition([2, 2]), settings()).logits
        assert not torch.allclose(run(model, context).logits[0], other[0], atol=1e-2)
        assert_close(run(model, context).logits[1], other[1], **CLOSE)

    @pytest.mark.parametrize("mode", ["parallel", "serial"])
    def test_gumbel_noise_is_for_training(self, model: Model, context: list[Tensor], mode: str) -> None:
        plain = run(model, context, mode=mode)
        assert torch.equal(run(model, context, mode=mode, gumbel=True).latent, plain.latent)
        model.train()
        assert torch.equal(run(model, context, mode=mode).latent, plain.latent)
        noisy = [run(model, context, mode=mode, gumbel=True).latent for _ in range(2)]
        assert not torch.equal(noisy[0], noisy[1])

    def test_clamping(self, model: Model, context: list[Tensor]) -> None:
        condition = model.backbone.condition([1, 2])
        with torch.no_grad():
            model.tokenizer.decoder.out.weight.mul_(30)  # type: ignore[union-attr, operator]
            free = translate_context(model, context, condition, settings(), clamp=False).image
            clamped = translate_context(model, context, condition, settings()).image
        assert float(free.abs().max()) > 1
        assert torch.equal(clamped, free.clamp(-1, 1))


class TestGradients:
    @pytest.mark.parametrize(
        ("values", "untouched"),
        [
            ({}, {"start_position"}),
            ({"start": "add"}, set()),
            ({"mode": "serial"}, set()),
            ({"mode": "serial", "serial": "literal"}, set()),
        ],
    )
    def test_they_reach_pictures_and_backbone_and_no_frozen_tokenizer(
        self, model: Model, images: Tensor, values: dict[str, Any], untouched: set[str]
    ) -> None:
        model.tokenizer.requires_grad_(False)
        images.requires_grad_()
        condition = model.backbone.condition([1, 2])
        translate(model, images, condition, settings(**values), clamp=False).image.square().mean().backward()
        assert images.grad is not None
        assert bool(images.grad.isfinite().all())
        assert all(float(picture.abs().max()) > 0 for picture in images.grad)
        silent = {
            name
            for name, parameter in model.backbone.named_parameters()
            if parameter.numel() and (parameter.grad is None or not parameter.grad.any())
        }
        assert silent == untouched
        assert all(parameter.grad is None for parameter in model.tokenizer.parameters())

    def test_they_pass_through_the_second_translation_into_the_first(self, model: Model, images: Tensor) -> None:
        model.tokenizer.requires_grad_(False)
        frozen = copy.deepcopy(model).requires_grad_(False)
        first = translate(model, images, model.backbone.condition([1, 2]), settings(), clamp=False)
        first.image.retain_grad()
        second = translate(frozen, first.image, frozen.backbone.condition([0, 3]), settings(), clamp=False)
        (second.image - images).abs().mean().backward()
        assert first.image.grad is not None
        assert bool(first.image.grad.any())
        head = model.backbone.get_parameter("head.weight")
        assert head.grad is not None
        assert bool(head.grad.any())

    def test_the_numerical_derivative(self, model: Model, context: list[Tensor]) -> None:
        condition = Condition(model.backbone.condition([1, 2]).vector.detach())
        source = context[1].requires_grad_()

        def latent(part: Tensor) -> Tensor:
            maps = [part if k == 1 else other for k, other in enumerate(context)]
            return predict(model, maps, condition, settings()).predicted

        generator = torch.Generator().manual_seed(2)
        direction = torch.randn(source.shape, generator=generator)
        probe = torch.randn(2, 8, 4, 4, generator=generator)
        (gradient,) = torch.autograd.grad((latent(source) * probe).sum(), source)
        with torch.no_grad():
            step = 1e-2 * direction
            numeric = ((latent(source + step) - latent(source - step)) * probe).sum() / 2e-2
        assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=2e-2)
