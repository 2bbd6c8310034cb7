"""What every cache policy promises."""

from __future__ import annotations

from typing import Any

import torch

from cyclevar.core.attention.cache import CachePolicy
from cyclevar.core.contract.fixtures import *  # noqa: F403
from cyclevar.core.contract.fixtures import Settings, build_part
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.generation import generate

KIND = "cache_policy"


def draw(host: Model, name: str, settings: Settings, **more: Any) -> torch.Tensor:
    asked = {"cache_policy": {name: dict(settings(KIND, name))}}
    return generate(host, host.backbone.condition(host.backbone.names[:2]), extensions=asked, **more).image


def test_it_is_a_policy(name: str, cyclevar_contract_settings: Settings) -> None:
    assert isinstance(build_part(cyclevar_contract_settings, KIND, name), CachePolicy)


def test_pictures_are_drawn_with_it(name: str, cyclevar_contract_settings: Settings, host: Model) -> None:
    images = draw(host, name, cyclevar_contract_settings)
    assert bool(images.isfinite().all())
    assert torch.equal(images, draw(host, name, cyclevar_contract_settings))


def test_with_guidance_too(name: str, cyclevar_contract_settings: Settings, host: Model) -> None:
    assert bool(draw(host, name, cyclevar_contract_settings, guidance=2.0).isfinite().all())
