"""Published files of FlexVAR, both ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cyclevar.core.errors import CheckpointError
from cyclevar.core.models.model import Model, build
from cyclevar.plugins.flexvar.config import FlexVarConfig

MakeModel = Callable[..., Model]
Parts = dict[str, dict[str, Tensor]]


@pytest.fixture
def published(model: Model) -> Parts:
    """Random weights in the published names and shapes, with the buffers that the published files have."""
    parts = model.export_official()
    assert {"attn_bias_for_masking", "blocks.1.attn.zero_k_bias"} <= parts["backbone"].keys()
    assert "lvl_1L" not in parts["backbone"]
    assert parts["tokenizer"]["quantize.codebook_used"].shape == (65536,)
    assert "encoder.conv_blocks.1.attn.0.q.weight" in parts["tokenizer"]
    assert "decoder.conv_blocks.0.attn.1.v.bias" in parts["tokenizer"]
    return {part: {name: tensor.detach().clone() for name, tensor in state.items()} for part, state in parts.items()}


def check(model: Model, expected: Model) -> None:
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("initialize", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_files_as_they_are_published(
    model: Model, published: Parts, tmp_path: Path, wrapped: bool, initialize: bool
) -> None:
    published["backbone"]["attn_bias_for_masking"] = torch.zeros(1, 1, 7, 7)  # of whatever schedule came last
    published["tokenizer"]["quantize.codebook_used"] = torch.arange(65536.0)
    torch.save({"model": published["tokenizer"], "steps": 7} if wrapped else published["tokenizer"], tmp_path / "t.pth")
    trainer = {"trainer": {"var_wo_ddp": published["backbone"], "var_opt": {"state": {}}}}
    torch.save(trainer if wrapped else published["backbone"], tmp_path / "b.pth")
    fresh = build("flexvar", model.config, initialize=initialize)
    check(fresh.load_official(tmp_path / "t.pth", tmp_path / "b.pth"), model)


@pytest.mark.parametrize(
    "overrides",
    [{"backbone": {"shared_adaln": True}}, {"backbone": {"qk_norm": False}}, {"tokenizer": {"multipliers": [1, 2, 1]}}],
)
def test_every_setting_there_and_back(make_model: MakeModel, overrides: dict[str, object]) -> None:
    model = make_model(**overrides)
    parts = model.export_official()
    check(make_model(seed=1, **overrides).load_official(parts["tokenizer"], parts["backbone"]), model)
    assert model.official is not None
    derived = model.official.tokenizer.derived.keys() | model.official.backbone.derived.keys()
    theirs = sum(t.numel() for state in parts.values() for name, t in state.items() if name not in derived)
    assert sum(parameter.numel() for parameter in model.parameters()) == theirs


def test_the_decoders_levels_are_numbered_as_they_run(model: Model) -> None:
    parts = model.export_official()["tokenizer"]
    deepest = model.tokenizer.get_parameter("decoder.levels.1.residuals.0.conv1.weight")
    assert torch.equal(parts["decoder.conv_blocks.0.res.0.conv1.weight"], deepest)
    shallow = model.tokenizer.get_parameter("encoder.levels.0.residuals.0.conv1.weight")
    assert torch.equal(parts["encoder.conv_blocks.0.res.0.conv1.weight"], shallow)


@pytest.mark.parametrize("preset", ["tiny", "d16", "d20", "d24"])
def test_the_sizes_that_are_written_down(preset: str) -> None:
    model = build("flexvar", preset, initialize=False)
    parts = (model.tokenizer, model.backbone)
    measured = (*(sum(p.numel() for p in part.parameters()) for part in parts), model.tokenizer.stride)
    assert FlexVarConfig.measures()[preset] == measured


def test_a_file_of_another_family(published: Parts) -> None:
    var = build("var", {"schedule": "1-2-4", "backbone": {"depth": 2, "width": 32, "heads": 2, "classes": 4}})
    with pytest.raises(CheckpointError, match=r"unknown keys.*wrong shapes"):
        var.load_official(backbone={**published["backbone"], "stray": torch.zeros(1)})
