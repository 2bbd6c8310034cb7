"""What every callback promises."""

from __future__ import annotations

import torch

from cyclevar.core.contract.fixtures import *  # noqa: F403
from cyclevar.core.contract.fixtures import Settings, build_part
from cyclevar.core.interfaces.callbacks import Callback
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.generation import Generation, generate

KIND = "callback"


def draw(host: Model, name: str, settings: Settings) -> Generation:
    asked = {"callbacks": {name: dict(settings(KIND, name))}}
    return generate(host, host.backbone.condition(host.backbone.names[:2]), seed=1, extensions=asked)


def test_it_is_a_callback(name: str, cyclevar_contract_settings: Settings) -> None:
    assert isinstance(build_part(cyclevar_contract_settings, KIND, name), Callback)


def test_pictures_are_drawn_with_it(name: str, cyclevar_contract_settings: Settings, host: Model) -> None:
    made = draw(host, name, cyclevar_contract_settings)
    assert bool(made.image.isfinite().all())
    assert made.image.shape[1:] == (3, *host.image_size)
    again = draw(host, name, cyclevar_contract_settings)
    assert torch.equal(made.image, again.image), "equal seeds draw equal pictures, with a callback too"


def test_nothing_is_left_of_it(name: str, cyclevar_contract_settings: Settings, host: Model) -> None:
    condition = host.backbone.condition(host.backbone.names[:2])
    before = generate(host, condition, seed=1)
    draw(host, name, cyclevar_contract_settings)
    after = generate(host, condition, seed=1)
    assert torch.equal(before.image, after.image), "a run without the callback is as it was before"
