"""VAR's transformer: what it takes for a target, its schedule, its initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.models.model import Model, build
from cyclevar.core.schedule import ScaleSchedule

MakeModel = Callable[..., Model]


def test_targets_are_ids_names_or_digits(model: Model) -> None:
    backbone = model.backbone
    table = backbone.get_parameter("class_embedding")
    condition = backbone.condition([1, "dog", "1", "cat"])
    assert_close(condition.vector, table[[1, 1, 1, 0]])
    assert condition.null is not None
    assert_close(condition.null.vector, table[[4, 4, 4, 4]])
    assert_close(backbone.condition(torch.tensor([3, 0])).vector, table[[3, 0]])
    backbone.add_domain("zebra", 3)
    assert_close(backbone.condition(["zebra", 4 - 1]).vector, table[[3, 3]])


@pytest.mark.parametrize("target", [4, -1, "4"])
def test_ids_out_of_range(model: Model, target: int | str) -> None:
    with pytest.raises(ConfigError, match=r"class -?\d is out of range; expected 0 to 3"):
        model.backbone.condition([target])


def test_an_unknown_name(model: Model) -> None:
    with pytest.raises(UnknownNameError, match=r"no domain named 'dogg'.* did you mean 'dog'\? class ids work too"):
        model.backbone.condition(["dogg"])


def test_another_schedule_is_refused(model: Model) -> None:
    condition = model.backbone.condition([0])
    with pytest.raises(ConfigError, match="schedule is 1-3; expected 1-2-4, whose positions"):
        model.backbone([None], condition, ScaleSchedule.square(1, 3))
    with pytest.raises(ConfigError, match="scale 1 was given no map"):
        model.backbone([None, None], condition, model.schedule)


def test_guidance_rises_linearly_from_nothing(model: Model) -> None:
    logits, null = torch.randn(2, 1, 24), torch.randn(2, 1, 24)

    def guide(scale: int, schedule: ScaleSchedule) -> torch.Tensor:
        return model.backbone.guide(logits, null, 3.0, scale, schedule, model.config.sampling)

    assert_close(guide(0, model.schedule), logits)
    assert_close(guide(1, model.schedule), 2.5 * logits - 1.5 * null)
    assert_close(guide(2, model.schedule), 4 * logits - 3 * null)
    assert_close(guide(0, ScaleSchedule.square(4)), logits)


@pytest.mark.parametrize("shared", [False, True])
def test_initial_weights(make_model: MakeModel, shared: bool) -> None:
    torch.manual_seed(0)
    config = make_model(backbone={"width": 128, "shared_adaln": shared}).config
    backbone = build("var", config).backbone
    std = math.sqrt(1 / 3 / 128)
    spreads = {
        "embed.weight": 1,
        "head.weight": 0.02,
        "blocks.1.attention.qkv.weight": 1,
        "blocks.1.attention.out.weight": 0.5,
        "blocks.1.feed_forward.down.weight": 0.5,
        "position": 1,
        "class_embedding": 1,
    }
    for name, factor in spreads.items():
        assert float(backbone.get_parameter(name).detach().std()) == pytest.approx(factor * std, rel=0.1), name
    for name, parameter in backbone.named_parameters():
        assert not name.endswith("bias") or not parameter.any(), name
    assert_close(backbone.get_parameter("blocks.0.attention.log_scale"), torch.full((1, 2, 1, 1), math.log(4)))


def test_branches_drop_while_training_only(make_model: MakeModel) -> None:
    model = make_model(backbone={"drop_path": 0.5, "depth": 3})
    rates = [module.drop_path for module in model.backbone.modules() if hasattr(module, "drop_path")]
    assert rates == [0.0, 0.25, 0.5]
    features = [torch.randn(2, 8, *size) for size in model.schedule.sizes]

    def logits() -> torch.Tensor:
        with torch.no_grad():
            out: torch.Tensor = model.backbone(features, model.backbone.condition([0, 1]), model.schedule)
            return out

    assert torch.equal(logits(), logits())
    model.train()
    assert not torch.equal(logits(), logits())


def test_the_published_sizes() -> None:
    counts = {"d16": 310, "d20": 601, "d24": 1033, "d30": 2010, "d36": 2354}
    for preset, millions in counts.items():
        model = build("var", preset, initialize=False)
        assert sum(parameter.numel() for parameter in model.backbone.parameters()) / 1e6 == pytest.approx(
            millions, abs=1
        )
        assert sum(parameter.numel() for parameter in model.tokenizer.parameters()) / 1e6 == pytest.approx(109, abs=1)
        assert model.image_size == ((512, 512) if preset == "d36" else (256, 256))
        assert all(isinstance(module, nn.Module) for module in model.backbone.get_submodule("blocks"))
