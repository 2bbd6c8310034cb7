"""Published files of VAR, both ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from cyclevar.core.errors import CheckpointError
from cyclevar.core.models.model import Model, build

MakeModel = Callable[..., Model]
Parts = dict[str, dict[str, Tensor]]


@pytest.fixture
def published(model: Model) -> Parts:
    """Random weights in the published names and shapes, with the buffers that the published files have."""
    parts = model.export_official()
    assert {"attn_bias_for_masking", "lvl_1L", "blocks.1.attn.zero_k_bias"} <= parts["backbone"].keys()
    assert "quantize.ema_vocab_hit_SV" in parts["tokenizer"]
    return {part: {name: tensor.detach().clone() for name, tensor in state.items()} for part, state in parts.items()}


def check(model: Model, expected: Model) -> None:
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("initialize", [True, False])
@pytest.mark.parametrize("kind", ["dict", "pth", "safetensors", "training checkpoint"])
def test_every_kind_of_file(model: Model, published: Parts, tmp_path: Path, kind: str, initialize: bool) -> None:
    fresh = build("var", model.config, initialize=initialize)
    if kind == "dict":
        fresh.load_official(published["tokenizer"], published["backbone"])
    elif kind == "training checkpoint":
        trainer = {"vae_local": published["tokenizer"], "var_wo_ddp": published["backbone"], "var_opt": {"state": {}}}
        torch.save({"epoch": 3, "iter": 0, "trainer": trainer}, tmp_path / "ar-ckpt-last.pth")
        fresh.load_official(tmp_path / "ar-ckpt-last.pth", tmp_path / "ar-ckpt-last.pth")
    else:
        paths = {part: tmp_path / f"{part}.{kind}" for part in published}
        for part, state in published.items():
            if kind == "pth":
                torch.save(state, paths[part])
            else:
                safetensors.torch.save_file(state, paths[part], metadata={"format": "pt"})
        fresh.load_official(str(paths["tokenizer"]), paths["backbone"])
    check(fresh, model)
    assert all(parameter.requires_grad for parameter in fresh.parameters())


def test_one_part_leaves_the_other(make_model: MakeModel, published: Parts) -> None:
    fresh = make_model(seed=1)
    before = {name: tensor.clone() for name, tensor in fresh.tokenizer.state_dict().items()}
    fresh.load_official(backbone=published["backbone"])
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.tokenizer.state_dict().items())


def test_what_was_given_is_not_held(model: Model, published: Parts) -> None:
    given = {name: tensor.clone() for name, tensor in published["backbone"].items()}
    fresh = build("var", model.config, initialize=False).load_official(backbone=published["backbone"])
    with torch.no_grad():
        for parameter in fresh.backbone.parameters():
            parameter.zero_()
    assert all(torch.equal(given[name], tensor) for name, tensor in published["backbone"].items())


@pytest.mark.parametrize(
    "overrides",
    [
        {"backbone": {"shared_adaln": True}},
        {"backbone": {"qk_norm": False}},
        {"tokenizer": {"phi_count": 1}},
        {"tokenizer": {"multipliers": [1, 1, 2], "residual_blocks": 2}, "schedule": "1-2"},
    ],
)
def test_every_setting_there_and_back(make_model: MakeModel, overrides: dict[str, object]) -> None:
    model = make_model(**overrides)
    parts = model.export_official()
    check(make_model(seed=1, **overrides).load_official(parts["tokenizer"], parts["backbone"]), model)
    ours = sum(parameter.numel() for parameter in model.parameters())
    derived = model.official and (model.official.tokenizer.derived.keys() | model.official.backbone.derived.keys())
    theirs = sum(t.numel() for state in parts.values() for name, t in state.items() if name not in (derived or ()))
    assert ours == theirs


def test_added_domains_are_no_part_of_the_published_format(make_model: MakeModel, published: Parts) -> None:
    model = make_model()
    model.backbone.add_domain("zebra", 2)
    assert model.export_official()["backbone"].keys() == published["backbone"].keys()
    state = torch.get_rng_state()
    again = build("var", model.config, initialize=False).load_official(published["tokenizer"], published["backbone"])
    assert torch.equal(state, torch.get_rng_state())
    assert not any(parameter.is_meta for parameter in again.parameters())
    assert again.backbone.names == ("cat", "dog", "zebra")
    assert torch.equal(again.backbone.condition([1]).vector, model.backbone.condition([1]).vector)


def test_a_file_of_another_size(published: Parts, make_model: MakeModel, tmp_path: Path) -> None:
    torch.save(published["backbone"], tmp_path / "var.pth")
    with pytest.raises(CheckpointError) as caught:
        make_model(backbone={"depth": 3, "classes": 6}).load_official(backbone=tmp_path / "var.pth")
    message = str(caught.value)
    assert "var.pth does not fit the model: missing keys: blocks.2." in message
    assert "wrong shapes: class_emb.weight has [5, 32], expected [7, 32]" in message
    assert message.endswith("check that the preset (or the settings) and the file belong together.")


def test_a_file_of_the_other_part(model: Model, published: Parts) -> None:
    with pytest.raises(CheckpointError, match=r"missing keys: pos_start.*unknown keys: encoder"):
        model.load_official(backbone=published["tokenizer"])
