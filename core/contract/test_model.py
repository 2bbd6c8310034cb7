"""What every family promises as a whole: saved, published, translating, sampling, learning."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.contract.fixtures import *  # noqa: F403
from cyclevar.core.models.model import Model, build, load_model
from cyclevar.core.next_scale.translation import encode_context, translate

EVERY_MODE = [{"mode": "parallel"}, {"mode": "serial"}, {"mode": "serial", "serial": "literal"}]


def same(one: Model, other: Model) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_it_is_what_it_was_saved_as(model: Model, images: Tensor, targets: Sequence[str], tmp_path: Path) -> None:
    changed = copy.deepcopy(model)
    changed.backbone.add_domain("a new domain", targets[0])
    changed.save(tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors").eval()
    assert same(changed, loaded)
    for one in (changed, loaded):  # torch may choose another kernel for weights that require a gradient
        one.requires_grad_(False)
    assert loaded.config == changed.config
    assert "a new domain" in loaded.backbone.names
    with torch.no_grad():
        context = encode_context(model, images)
        for target in (targets[0], "a new domain"):
            conditions = [one.backbone.condition([target] * 2) for one in (changed, loaded)]
            first, second = (
                one.backbone(context, condition, model.schedule)
                for one, condition in zip((changed, loaded), conditions, strict=True)
            )
            assert torch.equal(first, second)


def test_published_names_there_and_back(model: Model) -> None:
    if model.official is None:
        pytest.skip(f"{model.family} has no published files")
    parts = model.export_official()
    again = build(model.family, model.config, initialize=False)
    assert same(again.load_official(parts["tokenizer"], parts["backbone"]), model)


@pytest.mark.parametrize("values", EVERY_MODE)
def test_translating(model: Model, images: Tensor, targets: Sequence[str], values: dict[str, str]) -> None:
    config = TranslationConfig.model_validate(values)
    out = translate(model, images, model.backbone.condition(targets), config)
    assert out.image.shape == images.shape
    assert out.latent.shape == out.predicted.shape == out.source.shape
    assert [tuple(part.shape[-2:]) for part in out.maps] == list(model.schedule.sizes)
    assert bool(out.image.isfinite().all())
    assert_close(out.latent, config.fusion * out.predicted + (1 - config.fusion) * out.source)
    assert torch.equal(out.image, translate(model, images, model.backbone.condition(targets), config).image)


@pytest.mark.parametrize("values", EVERY_MODE)
def test_gradients_reach_pictures_and_backbone_and_no_frozen_tokenizer(
    model: Model, images: Tensor, targets: Sequence[str], values: dict[str, str]
) -> None:
    model = copy.deepcopy(model)
    model.backbone.requires_grad_(True)
    source = images.clone().requires_grad_()
    config = TranslationConfig.model_validate(values)
    out = translate(model, source, model.backbone.condition(targets), config, clamp=False)
    out.image.square().mean().backward()
    assert source.grad is not None
    assert bool(source.grad.isfinite().all())
    assert bool(source.grad.any())
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.backbone.parameters())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.backbone.parameters())
    assert all(parameter.grad is None for parameter in model.tokenizer.parameters())
