"""Models: built by name or settings, saved and loaded, told of new domains."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.models.model import Model, build, load_model
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.core.weights.checkpoints import load_tensors, save_tensors

MakeModel = Callable[..., Model]


def logits(model: Model, target: int | str = 0) -> Tensor:
    """What the model says of fixed features."""
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 8, *size, generator=generator) for size in model.schedule.sizes]
    with torch.no_grad():
        out: Tensor = model.backbone(features, model.backbone.condition([target, 1]), model.schedule)
        return out


def same(one: Model, other: Model) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestBuilding:
    def test_by_preset_and_overrides(self) -> None:
        model = build("var", "d16", initialize=False, backbone={"depth": 1}, schedule="1-2-3")
        assert model.family == "var"
        assert model.backbone.depth == 1
        assert model.backbone.config.width == 1024  # type: ignore[attr-defined]
        assert model.schedule == ScaleSchedule.square(1, 2, 3)
        assert model.image_size == (48, 48)
        assert model.tokenizer.default_schedule == model.schedule

    def test_by_settings(self, make_model: MakeModel) -> None:
        model = make_model()
        again = build("var", model.config)
        assert again.config == model.config
        assert again.image_size == (16, 16)

    def test_an_override_changes_a_section_and_not_its_other_settings(self, make_model: MakeModel) -> None:
        model = make_model(tokenizer={"codebook_size": 30})
        assert model.tokenizer.quantizer.logit_dim == model.backbone.logit_dim == 30
        assert model.tokenizer.channels == 8

    @pytest.mark.parametrize(
        ("family", "config", "overrides", "message"),
        [
            ("vra", "tiny", {}, "no backbone named 'vra'.* did you mean 'var'"),
            ("var", "d17", {}, "no preset of var named 'd17'; expected one of d16, d20, d24, d30, d36, tiny"),
            ("var", "d16", {"tokenizer": {"codebok_size": 3}}, "did you mean 'tokenizer.codebook_size'"),
            ("var", {"bakcbone": {}}, {}, "did you mean 'backbone'"),
            ("var", "tiny", {"backbone": {"depth": 0}}, "backbone.depth is 0; expected greater than 0"),
            ("var", "tiny", {"backbone": {"heads": 3}}, "width 160 is not a multiple of 3 heads"),
            ("var", "tiny", {"schedule": "3-2"}, "shrinks from 3x3 to 2x2"),
            ("var", "tiny", {"tokenizer": {"width": 40}}, "cannot have 40 channels"),
        ],
    )
    def test_what_cannot_be_built_is_explained(
        self, family: str, config: str | dict[str, Any], overrides: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            build(family, config, initialize=False, **overrides)

    def test_the_seed_decides(self, make_model: MakeModel) -> None:
        models = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            models.append(build("var", make_model().config))
        assert same(models[0], models[1])
        assert not same(models[0], models[2])

    def test_without_weights_nothing_is_drawn(self, make_model: MakeModel) -> None:
        config = make_model().config
        state = torch.get_rng_state()
        model = build("var", config, initialize=False)
        assert all(parameter.is_meta for parameter in model.parameters())
        assert torch.equal(state, torch.get_rng_state())
        weight = torch.nn.Linear(2, 2).weight
        assert not weight.is_meta
        assert bool(weight.any())


class TestSaving:
    def test_what_is_loaded_is_what_was_saved(self, model: Model, tmp_path: Path) -> None:
        model.save(tmp_path / "model.safetensors", extra={"note": [1, 2]})
        state = torch.get_rng_state()
        loaded = load_model(tmp_path / "model.safetensors")
        assert torch.equal(state, torch.get_rng_state())
        assert same(model, loaded)
        assert loaded.config == model.config
        assert loaded.device == torch.device("cpu")
        assert all(parameter.requires_grad for parameter in loaded.parameters())
        assert torch.equal(logits(model), logits(loaded.eval()))
        assert load_tensors(tmp_path / "model.safetensors")[1]["note"] == [1, 2]

    def test_half_the_size(self, model: Model, tmp_path: Path) -> None:
        model.save(tmp_path / "whole.safetensors")
        model.save(tmp_path / "half.safetensors", half=True)
        sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
        assert sizes[0] < 0.6 * sizes[1]
        loaded = load_model(tmp_path / "half.safetensors").state_dict()
        for name, tensor in model.state_dict().items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor.half().to(tensor.dtype))

    @pytest.mark.parametrize("like", [None, 2, "dog"])
    def test_new_domains_survive(self, model: Model, tmp_path: Path, like: int | str | None) -> None:
        model.backbone.add_domain("zebra", like)
        model.backbone.add_domain("horse", "zebra")
        model.save(tmp_path / "model.safetensors")
        loaded = load_model(tmp_path / "model.safetensors").eval()
        assert loaded.backbone.names == ("cat", "dog", "zebra", "horse")
        assert torch.equal(logits(loaded, "zebra"), logits(model, "zebra"))
        assert torch.equal(logits(loaded, "zebra"), logits(loaded, "horse"))
        assert same(model, loaded)

    def test_a_new_domain_starts_as_told(self, model: Model) -> None:
        model.backbone.add_domain("copy", 2)
        model.backbone.add_domain("middle")
        assert torch.equal(logits(model, "copy"), logits(model, 2))
        every = model.backbone.condition([0, 1, 2, 3]).vector
        assert torch.allclose(model.backbone.condition(["middle"]).vector[0], every.mean(0))
        with pytest.raises(ConfigError, match="already a domain 'copy'"):
            model.backbone.add_domain("copy")
        with pytest.raises(UnknownNameError, match="did you mean 'middle'"):
            model.backbone.add_domain("other", "midle")
        assert model.backbone.names == ("cat", "dog", "copy", "middle")

    def test_a_new_domain_is_learned_apart_from_its_origin(self, model: Model) -> None:
        model.backbone.add_domain("copy", 2)
        model.backbone.condition(["copy"]).vector.sum().backward()
        gradients = {name: p.grad for name, p in model.backbone.named_parameters() if p.grad is not None}
        assert bool((gradients["domain_embedding"] == 1).all())
        assert not gradients["class_embedding"].any()

    def test_a_file_that_says_too_little(self, tmp_path: Path) -> None:
        save_tensors(tmp_path / "model.safetensors", {"w": torch.zeros(1)})
        with pytest.raises(CheckpointError, match="does not say which family it belongs to"):
            load_model(tmp_path / "model.safetensors")

    def test_a_file_whose_tensors_do_not_fit(self, model: Model, make_model: MakeModel, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        model.save(path)
        state, metadata = load_tensors(path)
        other = make_model(backbone={"width": 64}).config
        save_tensors(path, state, metadata | {"config": other.model_dump(mode="json")})
        with pytest.raises(CheckpointError, match=r"wrong shapes: .*\[5, 32\], expected \[5, 64\]"):
            load_model(path)
        state["extra"] = state.pop("backbone.head.weight")
        save_tensors(path, state, metadata)
        with pytest.raises(CheckpointError, match=r"missing keys: backbone.head.weight; unknown keys: extra"):
            load_model(path)

    def test_a_refused_state_changes_nothing(self, model: Model, make_model: MakeModel) -> None:
        state = make_model(seed=1).state_dict()
        state["backbone.head.weight"] = torch.zeros(3, 3)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=r"wrong shapes: backbone.head.weight has"):
            model.load_state(state, what="it")
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    @pytest.mark.parametrize("initialize", [True, False])
    def test_a_state_is_copied(self, make_model: MakeModel, initialize: bool) -> None:
        source = make_model(seed=1)
        model = build("var", source.config, initialize=initialize)
        model.load_state(source.state_dict(), what="it")
        assert same(model, source)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        assert same(source, make_model(seed=1))


@pytest.mark.parametrize("initialize", [True, False])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, 7, True], ids=str)
def test_weights_that_are_no_numbers_are_refused(
    make_model: MakeModel, tmp_path: Path, wrong: float, initialize: bool
) -> None:
    """In our own files and in published ones, the first tensor named; the model keeps its weights."""
    source = make_model(seed=1)
    state = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    name = "backbone.blocks.1.feed_forward.up.weight"
    reason = "is not finite" if type(wrong) is float else f"holds {'bool' if wrong is True else 'int64'}"
    if type(wrong) is float:
        state[name][0, 0] = wrong
    else:
        state[name] = torch.full_like(state[name], wrong, dtype=torch.bool if wrong is True else torch.int64)
    save_tensors(
        tmp_path / "bad.safetensors", state, {"family": "var", "config": source.config.model_dump(mode="json")}
    )
    with pytest.raises(CheckpointError, match=f"{name} in .*bad.safetensors {reason}"):
        load_model(tmp_path / "bad.safetensors")
    model = build("var", source.config, initialize=initialize)
    published = source.export_official()["backbone"]
    key = next(key for key, tensor in published.items() if "blocks.1" in key and "fc1.weight" in key)
    published[key] = state[name]
    with pytest.raises(CheckpointError, match=f"blocks.1.feed_forward.up.weight in the given backbone .* {reason}"):
        model.load_official(backbone=published)


def test_a_family_without_published_files(model: Model) -> None:
    private = Model("mine", model.config, model.tokenizer, model.backbone, model.schedule)
    with pytest.raises(ConfigError, match="the family mine has no published files"):
        private.export_official()
    with pytest.raises(ConfigError, match="the family mine has no published files"):
        private.load_official(backbone="file.pth")


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, dict[str, Tensor]]]:
    """Published tensors of several sizes and families, without memory."""
    sizes = ("var/d20", "flexvar/d16", "infinity/layer12")
    return {name: build(*name.split("/"), initialize=False).export_official() for name in sizes}


@pytest.mark.parametrize(
    ("given", "kind", "part", "expected"),
    [
        ("var/d20", "backbone", "backbone", "the backbone of var d20"),
        ("flexvar/d16", "backbone", "backbone", "the backbone of flexvar d16"),
        ("flexvar/d16", "tokenizer", "tokenizer", "the tokenizer of flexvar d16, d20, d24"),
        ("infinity/layer12", "backbone", "backbone", "the backbone of infinity layer12"),
        ("var/d20", "tokenizer", "backbone", "the tokenizer of var d16, d20, d24, d30, d36"),
    ],
)
def test_weights_of_something_else_are_recognized(
    published: dict[str, dict[str, dict[str, Tensor]]], given: str, kind: str, part: str, expected: str
) -> None:
    model = build("var", "d16", initialize=False)
    with pytest.raises(CheckpointError, match=f"does not fit the model: .*; it looks like {expected};"):
        model.load_official(**{part: published[given][kind]})


def test_a_model_file_of_ours_is_recognized() -> None:
    state = build("flexvar", "tiny", initialize=False).state_dict()
    with pytest.raises(CheckpointError, match=r"it looks like a model file of cyclevar \(flexvar\)"):
        build("var", "d16", initialize=False).load_official(backbone=state)


def test_nothing_is_guessed_of_the_right_weights_with_a_flaw_or_of_others(
    published: dict[str, dict[str, dict[str, Tensor]]],
) -> None:
    flawed = {name: tensor for name, tensor in published["var/d20"]["backbone"].items() if name != "head.bias"}
    for state in (flawed, {"a": torch.zeros(1)}):
        with pytest.raises(CheckpointError, match="does not fit the model") as raised:
            build("var", "d20", initialize=False).load_official(backbone=state)
        assert "looks like" not in str(raised.value)
