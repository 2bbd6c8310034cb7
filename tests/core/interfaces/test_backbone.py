"""Conditions, states and guidance."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.attention.cache import KeyValueCache
from cyclevar.core.config.inference import SamplingConfig
from cyclevar.core.interfaces.backbone import Backbone, Condition
from cyclevar.core.interfaces.quantizer import Quantizer
from cyclevar.core.interfaces.tokenizer import ScaleState, Tokenizer
from cyclevar.core.models.model import Model
from cyclevar.core.schedule import ScaleSchedule


def textual() -> Condition:
    null = Condition(torch.zeros(2, 3), torch.zeros(2, 4, 5), torch.tensor([4, 2]))
    return Condition(torch.ones(2, 3), torch.ones(2, 4, 5), torch.tensor([4, 2]), null)


def test_a_batch_doubled() -> None:
    doubled = textual().with_null()
    assert len(doubled) == 4
    assert doubled.null is None
    assert doubled.vector[:, 0].tolist() == [1, 1, 0, 0]
    assert doubled.tokens is not None
    assert doubled.tokens[:, 0, 0].tolist() == [1, 1, 0, 0]
    assert doubled.lengths is not None
    assert doubled.lengths.tolist() == [4, 2, 4, 2]
    assert Condition(torch.ones(2, 3), null=Condition(torch.zeros(2, 3))).with_null().tokens is None
    with pytest.raises(ValueError, match="no null"):
        doubled.with_null()


def test_dropped_rows() -> None:
    condition = textual()
    dropped = condition.dropped(torch.tensor([False, True]))
    assert dropped.vector[:, 0].tolist() == [1, 0]
    assert dropped.tokens is not None
    assert dropped.tokens[:, 3, 4].tolist() == [1, 0]
    assert dropped.null is condition.null
    assert torch.equal(condition.vector, torch.ones(2, 3))


def test_the_size_of_what_comes_next() -> None:
    schedule = ScaleSchedule(((1, 1), (2, 3)))
    assert ScaleState(schedule, 1, torch.zeros(1)).size == (2, 3)


@pytest.mark.parametrize("interface", [Tokenizer, Quantizer, Backbone])
def test_an_interface_is_not_a_part(interface: type[object]) -> None:
    with pytest.raises(TypeError, match="abstract"):
        interface()


@torch.no_grad()
def test_guidance_contrasts_two_runs(model: Model) -> None:
    backbone, schedule = model.backbone, model.schedule
    condition = backbone.condition([0, 3])
    assert condition.null is not None
    features: Sequence[Tensor | None] = [None, torch.randn(2, 8, 2, 2)]
    guided, own, null = (KeyValueCache(backbone.depth, schedule) for _ in range(3))
    for scale, feature in enumerate(features):
        expected = backbone.guide(
            backbone([feature], condition, schedule, first=scale, cache=own),
            backbone([feature], condition.null, schedule, first=scale, cache=null),
            1.5,
            scale,
            schedule,
            SamplingConfig(),
        )
        found = backbone.guided(feature, condition, schedule, scale, guided, 1.5, SamplingConfig())
        assert_close(found, expected, atol=1e-4, rtol=1e-4)
