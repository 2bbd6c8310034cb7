"""What every backbone promises: one call serves teacher forcing, parallel translation and cached steps alike."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.attention.cache import KeyValueCache
from cyclevar.core.attention.plan import Visibility
from cyclevar.core.config.training import LoraConfig
from cyclevar.core.contract.fixtures import *  # noqa: F403
from cyclevar.core.interfaces.backbone import Condition, Start
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.pyramid import Pyramid, teacher_inputs
from cyclevar.core.training.lora import Adapters, target_layers

near = functools.partial(assert_close, atol=2e-4, rtol=1e-3)


@pytest.fixture
def features(model: Model, pyramid: Pyramid) -> list[Tensor | None]:
    """None, then one map a scale."""
    return teacher_inputs(model.tokenizer, pyramid.maps, model.schedule)


@pytest.fixture
def context(model: Model, pyramid: Pyramid) -> list[Tensor]:
    return model.tokenizer.context(pyramid.maps, model.schedule)


@pytest.fixture
def condition(model: Model, targets: Sequence[str]) -> Condition:
    return model.backbone.condition(targets)


def differing(model: Model, one: Tensor, other: Tensor) -> list[int]:
    """The scales at which logits differ by more than rounding."""
    spans = model.schedule.spans
    return [k for k, (a, b) in enumerate(spans) if not torch.allclose(one[:, a:b], other[:, a:b], atol=2e-4, rtol=1e-3)]


def test_logits(model: Model, features: list[Tensor | None], condition: Condition) -> None:
    logits = model.backbone(features, condition, model.schedule)
    assert logits.shape == (2, model.schedule.total, model.backbone.logit_dim)
    assert logits.dtype == torch.float32
    assert bool(logits.isfinite().all())
    assert model.backbone.logit_dim == model.tokenizer.quantizer.logit_dim


@pytest.mark.parametrize("gradients", [False, True])
def test_cached_steps_equal_the_whole(
    model: Model, features: list[Tensor | None], condition: Condition, gradients: bool
) -> None:
    whole = model.backbone(features, condition, model.schedule)
    cache = KeyValueCache(model.backbone.depth, model.schedule)
    with torch.set_grad_enabled(gradients):
        steps = [
            model.backbone([part], condition, model.schedule, first=k, cache=cache) for k, part in enumerate(features)
        ]
    near(torch.cat(steps, dim=1), whole)


def test_several_scales_a_step_equal_the_whole(
    model: Model, features: list[Tensor | None], condition: Condition
) -> None:
    whole = model.backbone(features, condition, model.schedule)
    cache = KeyValueCache(model.backbone.depth, model.schedule)
    cut = len(features) // 2
    first = model.backbone(features[:cut], condition, model.schedule, cache=cache)
    second = model.backbone(features[cut:], condition, model.schedule, first=cut, cache=cache)
    near(torch.cat([first, second], dim=1), whole)


@pytest.mark.parametrize("kind", ["own", "last_alone"])
def test_cached_steps_see_what_the_whole_sees(
    model: Model, context: list[Tensor], condition: Condition, kind: str
) -> None:
    visibility: Visibility = getattr(Visibility, kind)(len(model.schedule))
    whole = model.backbone(context, condition, model.schedule, visibility=visibility)
    cache = KeyValueCache(model.backbone.depth, model.schedule, visibility)
    steps = [model.backbone([part], condition, model.schedule, first=k, cache=cache) for k, part in enumerate(context)]
    near(torch.cat(steps, dim=1), whole)


def test_a_scale_sees_itself_and_coarser_ones(
    model: Model, features: list[Tensor | None], condition: Condition
) -> None:
    scales = len(model.schedule)
    before = model.backbone(features, condition, model.schedule)
    for changed in range(1, scales):
        other = [part if part is None or k != changed else part + 1 for k, part in enumerate(features)]
        assert differing(model, before, model.backbone(other, condition, model.schedule)) == list(
            range(changed, scales)
        )


def test_a_scale_that_sees_only_itself_knows_of_no_other(
    model: Model, context: list[Tensor], condition: Condition
) -> None:
    own = Visibility.own(len(model.schedule))
    before = model.backbone(context, condition, model.schedule, visibility=own)
    for changed in range(len(model.schedule)):
        other = [part + 1 if k == changed else part for k, part in enumerate(context)]
        after = model.backbone(other, condition, model.schedule, visibility=own)
        assert differing(model, before, after) == [changed]


def test_how_a_map_meets_the_start_token(model: Model, context: list[Tensor], condition: Condition) -> None:
    def logits(first: Tensor | None, start: Start) -> Tensor:
        out: Tensor = model.backbone([first, *context[1:]], condition, model.schedule, start=start)
        return out

    outs = {start: logits(context[0], start) for start in get_args(Start)}
    kept = logits(None, "replace")
    assert torch.equal(kept, logits(None, "add"))
    for start, out in outs.items():
        assert differing(model, out, kept), start
        assert differing(model, out, logits(context[0] + 1, start)), start
    assert differing(model, outs["replace"], outs["add"])


def test_the_target_and_its_absence_matter(
    model: Model, features: list[Tensor | None], condition: Condition, targets: Sequence[str]
) -> None:
    backbone, schedule = model.backbone, model.schedule
    assert condition.null is not None
    assert len(condition) == len(condition.null) == 2
    logits = backbone(features, condition, schedule)
    swapped = backbone(features, backbone.condition(targets[::-1]), schedule)
    assert differing(model, logits, swapped)
    assert differing(model, logits, backbone(features, condition.null, schedule))


def test_a_doubled_batch_is_two_batches(model: Model, features: list[Tensor | None], condition: Condition) -> None:
    backbone, schedule = model.backbone, model.schedule
    assert condition.null is not None
    doubled = [None if part is None else torch.cat([part, part]) for part in features]
    own, null = backbone(doubled, condition.with_null(), schedule).chunk(2)
    near(own, backbone(features, condition, schedule))
    near(null, backbone(features, condition.null, schedule))
    dropped = backbone(features, condition.dropped(torch.tensor([True, False])), schedule)
    near(dropped, torch.cat([null[:1], own[1:]]))


def test_guided_steps(model: Model, features: list[Tensor | None], condition: Condition) -> None:
    cache = KeyValueCache(model.backbone.depth, model.schedule)
    for scale, feature in enumerate(features):
        logits = model.backbone.guided(feature, condition, model.schedule, scale, cache, 2.0, model.config.sampling)
        assert logits.shape == (2, model.schedule.lengths[scale], model.backbone.logit_dim)
        assert bool(logits.isfinite().all())


def test_blocks_computed_again_have_the_same_gradients(
    model: Model, context: list[Tensor], condition: Condition
) -> None:
    backbone = copy.deepcopy(model.backbone).requires_grad_(True)
    calls = []
    for block in backbone.get_submodule("blocks").children():
        block.register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients(again: bool) -> list[Tensor | None]:
        calls.clear()
        backbone.zero_grad()
        backbone.gradient_checkpointing = again
        backbone(context, condition, model.schedule).square().mean().backward()
        assert len(calls) == backbone.depth * (2 if again else 1)
        return [None if parameter.grad is None else parameter.grad.clone() for parameter in backbone.parameters()]

    for kept, computed in zip(gradients(False), gradients(True), strict=True):
        assert (kept is None) == (computed is None)
        assert kept is None or computed is None or torch.equal(kept, computed)


def test_adapters_have_a_say_in_every_layer_and_merge(
    model: Model, context: list[Tensor], condition: Condition
) -> None:
    pytest.importorskip("peft", reason="no peft: pip install 'cyclevar[lora]'")
    backbone = copy.deepcopy(model.backbone)
    names = list(backbone.state_dict())
    adapters = Adapters(backbone, LoraConfig(rank=2))
    layers = target_layers(model.backbone, LoraConfig().targets)
    with torch.no_grad():
        for name in layers:
            backbone.get_submodule(f"{name}.lora_B.default").get_parameter("weight").normal_()
    adapted = backbone(context, condition, model.schedule)
    adapted.square().mean().backward()
    for name in layers:
        for half in ("lora_A", "lora_B"):
            gradient = backbone.get_submodule(f"{name}.{half}.default").get_parameter("weight").grad
            assert gradient is not None
            assert bool(gradient.any()), f"{name}.{half}"
    adapters.merge()
    assert list(backbone.state_dict()) == names
    assert_close(backbone(context, condition, model.schedule), adapted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", ["dense", "sdpa"])
def test_the_kernel_does_not_matter(
    model: Model, features: list[Tensor | None], condition: Condition, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model.backbone(features, condition, model.schedule)
    monkeypatch.setattr(model.backbone, "attention_backend", backend)
    near(model.backbone(features, condition, model.schedule), expected)
