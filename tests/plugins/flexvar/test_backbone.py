"""FlexVAR's transformer: positions at any size, guidance of two kinds, pictures of any size and ratio."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from torch.testing import assert_close

from cyclevar.core.attention.plan import Visibility
from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.models.model import Model, build
from cyclevar.core.next_scale.generation import generate
from cyclevar.core.next_scale.translation import translate
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.flexvar.backbone import FlexVarBackbone, waves
from cyclevar.plugins.flexvar.config import FlexVarSamplingConfig


def test_the_initial_table_by_hand(model: Model) -> None:
    table = waves(6, 4)
    assert table.shape == (1, 6, 4, 4)
    for pair, (y, x) in ((0, (1, 2)), (1, (3, 0)), (2, (2, 3))):
        frequency = 10000 ** (-2 * pair / 6)
        assert table[0, 2 * pair, y, x].item() == pytest.approx(math.sin(y * frequency), abs=1e-6)
        assert table[0, 2 * pair + 1, y, x].item() == pytest.approx(math.cos(x * frequency), abs=1e-6)
    fresh = build("flexvar", model.config).backbone
    assert torch.equal(fresh.get_parameter("position"), waves(32, 8))


@torch.no_grad()
def test_rows_are_means_of_the_table_or_its_cells_repeated(model: Model) -> None:
    backbone = cast(FlexVarBackbone, model.backbone)
    table = backbone.position[0]
    assert_close(backbone.rows((1, 1))[0, 0], table.mean((1, 2)))
    assert_close(backbone.rows((8, 8))[0], table.flatten(1).T)
    wide = backbone.rows((4, 8))[0].unflatten(0, (4, 8))
    assert_close(wide[1, 5], table[:, 2:4, 5].mean(1))
    assert_close(backbone.rows((16, 16))[0].unflatten(0, (16, 16))[5, 9], table[:, 2, 4])


def guided(model: Model, scale: int, schedule: ScaleSchedule, strength: float = 3.0, **settings: object) -> float:
    """How much of logits 1 against null logits 0 guidance gives."""
    sampling = FlexVarSamplingConfig.model_validate(settings)
    own, null = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    return model.backbone.guide(own, null, strength, scale, schedule, sampling).item()


def test_guidance_like_vars_rises_over_ten_scales_at_most(model: Model) -> None:
    assert [guided(model, k, model.schedule) for k in range(3)] == pytest.approx([1, 2.5, 4])
    many = ScaleSchedule.square(*[1] * 12)
    assert [guided(model, k, many) for k in (0, 3, 9, 10)] == pytest.approx([1, 2, 4, 1 + 30 / 9])
    assert guided(model, 0, ScaleSchedule.square(4)) == pytest.approx(1)


def test_guidance_is_full_beyond_the_trained_size(model: Model) -> None:
    beyond = ScaleSchedule(((1, 1), (2, 2), (3, 5), (6, 10)))
    assert [guided(model, k, beyond) for k in range(4)] == pytest.approx([1, 2, 4, 4])
    assert guided(model, 1, beyond, full_from=1) == pytest.approx(4)


def test_guidance_like_llamagens_is_the_same_at_all_scales(model: Model) -> None:
    assert [guided(model, k, model.schedule, style="llamagen") for k in range(3)] == pytest.approx([3, 3, 3])
    assert FlexVarSamplingConfig(style="llamagen").no_guidance == 1
    assert guided(model, 1, model.schedule, strength=1, style="llamagen") == pytest.approx(1)


@pytest.mark.parametrize("text", ["1-4", "1-2-3-4-5-6", "1-3-8", "1-1x2-2x4-3x6", "2x1-4x2-8x4", "3"])
def test_pictures_of_every_size_and_ratio(model: Model, text: str) -> None:
    schedule = ScaleSchedule.parse(text)
    condition = model.backbone.condition(["cat", "dog"])
    out = generate(model, condition, schedule=schedule, guidance=2.0)
    height, width = schedule.full
    assert out.image.shape == (2, 3, 2 * height, 2 * width)
    assert [tuple(codes.shape[1:]) for codes in out.codes] == list(schedule.sizes)


def test_pictures_of_another_size_are_translated(model: Model) -> None:
    images = torch.rand(2, 3, 8, 16) * 2 - 1
    condition = model.backbone.condition(["cat", "dog"])
    other = model.at(model.config.nearest_schedule((4, 8)))
    for mode in ("parallel", "serial"):
        assert translate(other, images, condition, TranslationConfig.model_validate({"mode": mode})).image.shape == (
            images.shape
        )
    with pytest.raises(ConfigError, match=r"schedule 1-2-4 builds a latent of 4x4 cells; expected 4x8, the size of"):
        translate(model, images, condition, TranslationConfig())


def test_nothing_tells_which_scale_a_token_is_of(model: Model) -> None:
    """A scale alone is the same, whatever number it has in its schedule."""
    condition = model.backbone.condition([0])
    part = torch.randn(1, 8, 4, 4)
    first = model.backbone([part], condition, ScaleSchedule.square(4))
    both = model.backbone(
        [torch.randn(1, 8, 2, 2), part], condition, ScaleSchedule.square(2, 4), visibility=Visibility.own(2)
    )
    assert_close(both[:, 4:], first)
