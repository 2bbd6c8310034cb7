"""What every visibility promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.attention.cache import KeyValueCache
from cyclevar.core.attention.plan import Visibility
from cyclevar.core.contract.fixtures import *  # noqa: F403
from cyclevar.core.contract.fixtures import Settings, build_part
from cyclevar.core.models.model import Model

KIND = "visibility"


@pytest.fixture(scope="module")
def visibility(name: str, cyclevar_contract_settings: Settings, host: Model) -> Visibility:
    visibility = build_part(cyclevar_contract_settings, KIND, name, host.schedule)
    assert isinstance(visibility, Visibility)
    return visibility


def features(host: Model) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    channels = host.tokenizer.channels
    return [torch.randn(2, channels, *size, generator=generator) for size in host.schedule.sizes]


def test_every_scale_sees_something_and_nothing_finer(visibility: Visibility, host: Model) -> None:
    assert len(visibility.sees) == len(host.schedule)
    for scale, row in enumerate(visibility.sees):
        assert any(row)
        assert not any(row[scale + 1 :]), "a scale cannot see one that is not drawn yet"
    causal = Visibility.causal(len(host.schedule)).pairs(host.schedule)
    assert 0 < visibility.pairs(host.schedule) <= causal


@torch.no_grad()
def test_cached_steps_equal_the_whole(visibility: Visibility, host: Model) -> None:
    maps = features(host)
    condition = host.backbone.condition(host.backbone.names[:2])
    whole = host.backbone(maps, condition, host.schedule, visibility=visibility)
    cache = KeyValueCache(host.backbone.depth, host.schedule, visibility)
    steps = [host.backbone([part], condition, host.schedule, first=k, cache=cache) for k, part in enumerate(maps)]
    assert_close(torch.cat(steps, dim=1), whole, atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_the_kernel_does_not_matter(visibility: Visibility, host: Model) -> None:
    maps = features(host)
    condition = host.backbone.condition(host.backbone.names[:2])
    before, outs = host.backbone.attention_backend, []
    for backend in ("dense", "sdpa"):
        host.backbone.attention_backend = backend
        outs.append(host.backbone(maps, condition, host.schedule, visibility=visibility))
    host.backbone.attention_backend = before
    assert_close(*outs, atol=2e-4, rtol=1e-3)
