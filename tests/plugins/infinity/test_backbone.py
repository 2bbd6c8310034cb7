"""Infinity's transformer: prompts, rotary positions, guidance, precision, initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cyclevar.core.attention.cache import KeyValueCache
from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces.backbone import Condition
from cyclevar.core.models.model import Model, build
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.infinity.backbone import InfinityBackbone
from cyclevar.plugins.infinity.config import InfinitySampling
from cyclevar.plugins.infinity.rotary import rotary_table

MakeModel = Callable[..., Model]


@pytest.fixture
def backbone(model: Model) -> InfinityBackbone:
    return cast(InfinityBackbone, model.backbone)


@pytest.fixture
def features(model: Model) -> list[Tensor | None]:
    return [torch.randn(2, 6, *size) for size in model.schedule.sizes]


def test_a_domain_is_told_by_its_prompt(backbone: InfinityBackbone) -> None:
    assert backbone.names == ("cat", "dog")
    named, spelled = backbone.condition(["cat", "dog"]), backbone.condition(["picture of a cat", "picture of a dog"])
    assert torch.equal(named.vector, spelled.vector)
    assert not torch.allclose(named.vector[0], named.vector[1])
    backbone.add_domain("puppy", "dog")
    backbone.add_domain("tiger", "a large cat")
    backbone.add_domain("zebra")
    assert backbone.config.prompts["puppy"] == "picture of a dog"
    assert backbone.config.prompts["tiger"] == "a large cat"
    assert backbone.config.prompts["zebra"] == "zebra"
    assert_close(backbone.condition(["puppy"]).vector, named.vector[1:])
    with pytest.raises(ConfigError, match="there is already a domain 'puppy'"):
        backbone.add_domain("puppy")


def test_texts_of_different_lengths_do_not_disturb_each_other(
    model: Model, backbone: InfinityBackbone, features: list[Tensor | None]
) -> None:
    both = backbone.condition(["dog", "zebra"])
    assert both.tokens is not None
    assert both.tokens.shape == (2, 4, 32)
    assert both.lengths is not None
    assert both.lengths.tolist() == [4, 1]
    together = backbone(features, both, model.schedule)
    for row, target in enumerate(["dog", "zebra"]):
        alone = [None if part is None else part[row : row + 1] for part in features]
        condition = backbone.condition([target])
        assert_close(condition.vector, both.vector[row : row + 1])
        assert_close(backbone(alone, condition, model.schedule), together[row : row + 1], atol=1e-4, rtol=1e-4)
        assert condition.null is not None
        assert both.null is not None
        assert_close(condition.null.vector, both.null.vector[row : row + 1])


def test_the_null_condition_has_as_many_tokens(backbone: InfinityBackbone) -> None:
    condition = backbone.condition(["zebra", "dog"])
    assert condition.null is not None
    assert condition.null.lengths is not None
    assert condition.null.lengths.tolist() == [1, 4]
    assert not torch.allclose(condition.null.vector[0], condition.null.vector[1])
    (gradient,) = torch.autograd.grad(condition.null.vector.square().sum(), backbone.null_embedding)
    assert gradient.any(1).tolist() == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "the prompt is empty"),
        (" \n", "the prompt is empty"),
        ("one two three four five six", "has 6 tokens; expected at most 5"),
        (3, "3 is a number; expected a prompt"),
    ],
)
def test_prompts_that_cannot_be(backbone: InfinityBackbone, target: int | str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        backbone.condition([target])


def test_any_schedule_of_up_to_15_scales(backbone: InfinityBackbone) -> None:
    condition = backbone.condition(["cat"])
    for schedule in (ScaleSchedule.square(2, 3), ScaleSchedule(((1, 1), (2, 3), (4, 6)))):
        parts = [None, *(torch.randn(1, 6, *size) for size in schedule.sizes[1:])]
        logits = backbone(parts, condition, schedule)
        assert logits.shape == (1, schedule.total, 12)
    with pytest.raises(ConfigError, match="has 16 scales; expected at most 15"):
        backbone([None], condition, ScaleSchedule.square(*range(1, 17)))
    with pytest.raises(ConfigError, match="scale 1 was given no map"):
        backbone([None, None], condition, ScaleSchedule.square(1, 2))


def test_positions_turn_neighbouring_channels(backbone: InfinityBackbone) -> None:
    cosine, sine = rotary_table([(1, 1), (2, 4)], (16, 32), 16, "reference")
    assert cosine.shape == (9, 8)
    assert_close(cosine.square() + sine.square(), torch.ones(9, 8))
    frequencies = [1.0, 0.1, 0.01, 0.001]
    row, column = 45 / 2, 90 / 4 * 3  # of the reference 45x90, rounded half to even
    expected = [round(row) * f for f in frequencies] + [round(column) * f for f in frequencies]
    assert_close(torch.atan2(sine, cosine)[8], torch.atan2(torch.tensor(expected).sin(), torch.tensor(expected).cos()))
    assert_close(cosine[0], torch.ones(8))


def test_the_same_place_has_the_same_position_at_every_scale_and_budget() -> None:
    small, large = ((16, 16), (16, 16)), ((16, 16), (64, 64))
    for one, other in zip(*(rotary_table([size], full, 16, "reference") for size, full in (small, large)), strict=True):
        assert torch.equal(one, other)
    coarse = rotary_table([(16, 16)], (64, 64), 16, "reference")[0].view(16, 16, 8)
    fine = rotary_table([(64, 64)], (64, 64), 16, "reference")[0].view(64, 64, 8)
    assert torch.equal(coarse, fine[::4, ::4])


@torch.no_grad()
def test_guidance_inside_and_outside(model: Model, backbone: InfinityBackbone) -> None:
    condition = backbone.condition(["cat", "dog"])

    def guided(strength: float, layers: tuple[int, ...]) -> Tensor:
        cache = KeyValueCache(backbone.depth, model.schedule)
        sampling = InfinitySampling(guidance=strength, guidance_layers=layers)
        return backbone.guided(None, condition, model.schedule, 0, cache, strength, sampling)

    own = backbone([None], condition, model.schedule)
    null = backbone([None], cast(Condition, condition.null), model.schedule)
    assert_close(guided(1.0, (0,)), own)
    assert_close(guided(3.0, (0,)), 3 * own - 2 * null, atol=1e-4, rtol=1e-4)
    assert_close(guided(1.0, (-2,)), own)
    inside = guided(3.0, (-2,))
    assert not torch.allclose(inside, own, atol=1e-3)
    assert not torch.allclose(inside, guided(3.0, (-1,)), atol=1e-3)
    assert_close(guided(0.0, (-1,)), _logits_from(backbone, condition, model.schedule), atol=1e-4, rtol=1e-4)
    for layers in ((1,), (-4,)):
        with pytest.raises(ConfigError, match="expected 0 for the logits, or -1 to -3"):
            guided(3.0, layers)


def _logits_from(backbone: InfinityBackbone, condition: Condition, schedule: ScaleSchedule) -> Tensor:
    """Logits of what the blocks make of the null condition, read out with the condition."""
    hidden = backbone._hidden([None], cast(Condition, condition.null), schedule, 0, None)
    return backbone._logits(hidden, condition)


@torch.no_grad()
def test_half_precision_blocks(model: Model, backbone: InfinityBackbone, features: list[Tensor | None]) -> None:
    condition = backbone.condition(["cat", "dog"])
    exact = backbone(features, condition, model.schedule)
    backbone.bfloat16()
    logits = backbone(features, backbone.condition(["cat", "dog"]), model.schedule)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, exact)
    assert float((logits - exact).norm() / exact.norm()) < 0.05


def test_initial_weights() -> None:
    torch.manual_seed(0)
    backbone = build("infinity", "tiny", backbone={"width": 128, "heads": 4}).backbone
    std = math.sqrt(1 / 3 / 128)
    spreads = {
        "embed.weight": 1,
        "head.weight": 0.02,
        "blocks.1.attention.qkv.weight": 1,
        "blocks.1.text_attention.out.weight": 8**-0.5,
        "blocks.1.feed_forward.down.weight": 8**-0.5,
        "words.embedding": 1,
    }
    for name, factor in spreads.items():
        assert float(backbone.get_parameter(name).detach().std()) == pytest.approx(factor * std, rel=0.1), name
    for name, parameter in backbone.named_parameters():
        assert not name.endswith("bias") or not parameter.any(), name
    assert_close(backbone.get_parameter("text_norm.weight"), torch.ones(128))
    assert_close(backbone.get_parameter("blocks.0.text_norm.weight"), torch.ones(128))


def test_every_parameter_learns(make_model: MakeModel, features: list[Tensor | None]) -> None:
    model = make_model()
    condition = model.backbone.condition(["cat", "a dog and a tiger"])
    dropped = condition.dropped(torch.tensor([True, False]))
    model.backbone([None, *features[1:]], dropped, model.schedule).square().mean().backward()
    without = [name for name, p in model.backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_published_sizes() -> None:
    counts = {"layer12": 126, "layer16": 369, "layer24": 940, "2b": 2200, "layer32": 2275, "layer40": 4700, "8b": 8300}
    for preset, millions in counts.items():
        model = build("infinity", preset, initialize=False)
        found = sum(parameter.numel() for parameter in model.backbone.parameters()) / 1e6
        assert found == pytest.approx(millions, rel=0.1), preset
        assert model.image_size == ((1024, 1024) if preset in ("2b", "8b") else (256, 256))
        assert all(isinstance(module, nn.Module) for module in model.backbone.get_submodule("blocks"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "a width that is a multiple of 4 times heads"),
        ({"chunks": 3}, r"a number of chunks that divides depth \(4\), not 3"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("infinity", "tiny", backbone=settings, initialize=False)
