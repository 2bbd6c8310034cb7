"""Published files of Infinity, both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from cyclevar.core.errors import CheckpointError
from cyclevar.core.models.model import Model, build
from cyclevar.plugins.infinity.official import bit_values

MakeModel = Callable[..., Model]
Parts = dict[str, dict[str, Tensor]]


@pytest.fixture
def published(model: Model) -> Parts:
    """Random weights in the published names and shapes, with the buffers that the published files have."""
    parts = {
        part: {name: tensor.detach().clone() for name, tensor in state.items()}
        for part, state in model.export_official().items()
    }
    assert {"quantizer.lfq.mask", "quantize.lfq.mask"} <= parts["tokenizer"].keys()
    assert {"block_chunks.1.module.0.ca.zero_k_bias", "text_proj_for_sos.ca.zero_k_bias"} <= parts["backbone"].keys()
    return parts


def fresh(model: Model) -> Model:
    return build("infinity", model.config, initialize=False)


def check(model: Model, expected: Model) -> None:
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("wrapper", ["gpt_fsdp", "gpt_ema_fsdp", "gpt_wo_ddp", None])
def test_files_of_every_kind(model: Model, published: Parts, tmp_path: Path, wrapper: str | None) -> None:
    content = {"trainer": {wrapper: published["backbone"]}, "iter": 3} if wrapper else published["backbone"]
    torch.save(content, tmp_path / "infinity.pth")
    torch.save({"vae": published["tokenizer"]} if wrapper else published["tokenizer"], tmp_path / "vae.pth")
    check(fresh(model).load_official(tmp_path / "vae.pth", tmp_path / "infinity.pth"), model)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_folder_of_shards(model: Model, published: Parts, tmp_path: Path, suffix: str) -> None:
    names = list(published["backbone"])
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    files = {name: f"{stem}-0000{1 + i % 2}-of-00002.{suffix}" for i, name in enumerate(names)}
    for file in set(files.values()):
        shard = {name: published["backbone"][name] for name in names if files[name] == file}
        if suffix == "safetensors":
            safetensors.torch.save_file(shard, tmp_path / file)
        else:
            torch.save(shard, tmp_path / file)
    (tmp_path / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    check(fresh(model).load_official(published["tokenizer"], tmp_path), model)


def test_other_spellings(model: Model, published: Parts) -> None:
    plain = {
        name.replace(".conv.weight", ".weight").replace(".conv.bias", ".bias").replace(".norm.", "."): tensor
        for name, tensor in published["tokenizer"].items()
    }
    assert "encoder.down.0.downsample.weight" not in plain.keys() & published["tokenizer"].keys()
    wrong = {name for name in plain if name.endswith("sample.weight") or name.endswith("sample.bias")}
    for name in wrong:  # the layer inside of a resampling has the wrapper's name itself
        layer, _, parameter = name.rpartition(".")
        plain[f"{layer}.conv.{parameter}"] = plain.pop(name)
    numbered = {
        f"blocks.{2 * int(name.split('.')[1]) + int(name.split('.')[3])}.{name.split('.', 4)[4]}"
        if name.startswith("block_chunks")
        else name: tensor
        for name, tensor in published["backbone"].items()
    }
    assert any(name.startswith("blocks.3.sa.") for name in numbered)
    check(fresh(model).load_official(plain, numbered), model)


def test_without_chunks_blocks_are_numbered_through(make_model: MakeModel) -> None:
    names = make_model(backbone={"chunks": 1}).export_official()["backbone"]
    assert "blocks.3.ada_gss" in names
    assert not any(name.startswith("block_chunks") for name in names)


@pytest.mark.parametrize("rows", [3, 5, 8])
def test_the_null_prompt_is_cut_or_continued(model: Model, published: Parts, rows: int) -> None:
    given = torch.randn(rows, 24)
    loaded = fresh(model).load_official(backbone={**published["backbone"], "cfg_uncond": given})
    found = loaded.backbone.get_parameter("null_embedding")
    assert torch.equal(found[:rows], given[:5])
    assert torch.equal(found[rows:], given.mean(0).expand(max(5 - rows, 0), -1))


def test_stale_buffers_do_not_disturb(model: Model, published: Parts) -> None:
    stale = {"lvl_1L": torch.zeros(1, 21), "attn_bias_for_masking": torch.zeros(1, 1, 21, 21)}
    check(fresh(model).load_official(published["tokenizer"], published["backbone"] | stale), model)


def test_the_bits_of_a_code() -> None:
    assert bit_values(4).tolist() == [8, 4, 2, 1]
    assert bit_values(64)[0] == -(2**63)
    assert bit_values(64)[1:].tolist() == [2**k for k in range(62, -1, -1)]


@pytest.mark.parametrize(
    "overrides",
    [
        {"backbone": {"spatial_patchify": True}},
        {"tokenizer": {"attention": True}},
        {"tokenizer": {"multipliers": [1], "unshuffle": 2}},
        {"tokenizer": {"multipliers": [1, 1, 2], "patch": 4, "residual_blocks": 2}},
        {"backbone": {"text_encoder": "t5"}},
    ],
)
def test_every_setting_there_and_back(make_model: MakeModel, overrides: dict[str, Any]) -> None:
    model = make_model(**overrides)
    parts = model.export_official()
    check(make_model(seed=1, **overrides).load_official(parts["tokenizer"], parts["backbone"]), model)
    ours = sum(parameter.numel() for parameter in model.parameters())
    derived = model.official and (model.official.tokenizer.derived.keys() | model.official.backbone.derived.keys())
    theirs = sum(t.numel() for state in parts.values() for name, t in state.items() if name not in (derived or ()))
    assert ours == theirs


def test_a_file_of_another_size(published: Parts, make_model: MakeModel, tmp_path: Path) -> None:
    torch.save(published["backbone"], tmp_path / "infinity.pth")
    with pytest.raises(CheckpointError) as caught:
        make_model(backbone={"depth": 6}, tokenizer={"bits": 8}).load_official(backbone=tmp_path / "infinity.pth")
    assert "infinity.pth does not fit the model: missing keys: block_chunks.0.module.2." in str(caught.value)
    assert "wrong shapes: word_embed.weight has [32, 6], expected [32, 8]" in str(caught.value)
