"""Training adapters instead of all weights: what learns, what is kept, what is saved."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cyclevar.core.config.base import validate
from cyclevar.core.config.training import LoraConfig, TrainConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.models.model import Model, build, load_model
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.training.launch import train
from cyclevar.core.training.lora import Adapters, target_layers, trained
from cyclevar.core.training.tasks.translator import TranslatorTask
from cyclevar.core.weights.checkpoints import load_tensors

pytest.importorskip("peft", reason="no peft: pip install 'cyclevar[lora]'")
pytestmark = pytest.mark.usefixtures("light")

Make = Callable[..., TranslatorTask]


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def logits(model: Model, backbone: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 8, *size, generator=generator) for size in model.schedule.sizes]
    with torch.no_grad():
        out: Tensor = backbone(features, model.backbone.condition(["discs", "squares"]), model.schedule)
        return out


def test_adapters_and_added_domains_learn_and_nothing_else(make_task: Make, model: Model) -> None:
    model.backbone.add_domain("rings")
    task = make_task(lora={"rank": 2}, warmup={"steps": 1}, discriminator={"pretrain_steps": 0})
    task.targets = ("discs", "rings")
    before = weights_of(task.model)
    for step in range(4):
        task.update(step)
    learning = {name for name, parameter in task.model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name in before if "lora_" in name} | {"backbone.domain_embedding"}
    assert len(learning) == 2 * (2 * 4) + 1  # two matrices for each of two blocks' four layers
    for name, parameter in task.model.named_parameters():
        assert (parameter.grad is not None) == (name in learning), name
        assert torch.equal(parameter, before[name]) == (name not in learning), name
    assert sum(len(group["params"]) for group in task.optimizer.param_groups) == len(learning)


def test_before_the_first_update_nothing_differs(model: Model) -> None:
    model.backbone.requires_grad_(False)  # as beside adapters: torch may choose another kernel where it is True
    before = logits(model, model.backbone)
    Adapters(model.backbone, LoraConfig(rank=2))
    assert torch.equal(logits(model, model.backbone), before)


def test_merged_adapters_do_what_they_did_beside_the_weights(make_task: Make, model: Model) -> None:
    plain = copy.deepcopy(model.backbone)
    task = make_task(lora={"rank": 3, "alpha": 6.0}, optimizer={"learning_rate": 0.01}, warmup={"steps": 4})
    for step in range(4):
        task.update(step)
    with torch.no_grad():  # a few updates move too little to tell
        for name, parameter in task.ema.module.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter))
    adapted = logits(model, task.ema.module.eval())
    assert (adapted - logits(model, plain.eval())).abs().max() > 0.01
    merged = task.finished().backbone.eval()
    torch.testing.assert_close(logits(model, merged), adapted, rtol=1e-4, atol=1e-4)
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert {type(layer) for layer in merged.modules()} == {type(layer) for layer in plain.modules()}


def test_the_average_keeps_no_second_copy_of_what_is_frozen(make_task: Make) -> None:
    task = make_task(lora={"rank": 2})
    pairs = list(zip(task.model.backbone.parameters(), task.ema.module.parameters(), strict=True))
    assert {own.requires_grad for own, _ in pairs} == {True, False}
    before = [own.detach().clone() for own, _ in pairs]
    for step in range(3):
        task.update(step)
    for (own, mean), old in zip(pairs, before, strict=True):
        assert (own.data_ptr() == mean.data_ptr()) == (not own.requires_grad or not own.numel())
        assert own.requires_grad or torch.equal(own, old)


def test_a_checkpoint_holds_what_learns(make_task: Make) -> None:
    task = make_task(lora={"rank": 2})
    names = set(trained(task.model.backbone).state_dict())
    assert {name.replace("/", ".") for name in names} == {
        name for name, parameter in task.model.backbone.named_parameters() if parameter.requires_grad
    }
    assert set(task.parts()["ema"].state_dict()) == {"n_averaged", *(f"module/{name}" for name in names)}


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("attention",), {"attention.qkv", "attention.out"}),
        (("feed_forward", "modulation"), {"feed_forward.up", "feed_forward.down", "modulation"}),
        (("qkv",), {"attention.qkv"}),
    ],
)
def test_targets_choose_parts_of_the_blocks(model: Model, targets: tuple[str, ...], expected: set[str]) -> None:
    assert set(target_layers(model.backbone, targets)) == {f"blocks.{i}.{name}" for i in range(2) for name in expected}


def test_attention_to_a_text_is_a_part_of_its_own() -> None:
    backbone = build("infinity", "tiny", initialize=False).backbone
    found = {name.split(".", 2)[2] for name in target_layers(backbone, ("text_attention",))}
    assert found == {"text_attention.query", "text_attention.key_value", "text_attention.out"}
    assert {name.split(".", 2)[2].split(".")[0] for name in target_layers(backbone, LoraConfig().targets)} == {
        "attention",
        "text_attention",
        "feed_forward",
    }


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("attention", "atention"), "lora.targets has atention; expected some of attention, down, feed_forward, .*up"),
        (("head",), "lora.targets has head; expected some of"),
        (("text_attention",), "lora.targets chooses nothing; expected some of"),
        ((), "lora.targets chooses nothing"),
    ],
)
def test_targets_that_name_nothing(model: Model, targets: tuple[str, ...], message: str) -> None:
    before = weights_of(model)
    with pytest.raises(ConfigError, match=message):
        Adapters(model.backbone, LoraConfig(rank=2, targets=targets))
    assert before.keys() == weights_of(model).keys()
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())


def short(config: TrainConfig, lora: Mapping[str, Any]) -> TrainConfig:
    return validate(
        TrainConfig,
        config.model_dump() | {"lora": lora, "loop": config.loop.model_dump() | {"steps": 3, "save_every": 2}},
    )


def test_what_is_saved_is_a_plain_translator(
    train_config: TrainConfig, weights: Path, display: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = train(short(train_config, {"rank": 2}), tmp_path / "run", resume=False, display=display, device="cpu")
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not installed
    translator = Translator.load(out)
    start = load_model(weights).state_dict()
    moved = {name for name, value in translator.model.state_dict().items() if not torch.equal(value, start[name])}
    layers = target_layers(translator.model.backbone, LoraConfig().targets)
    assert moved == {f"backbone.{name}.weight" for name in layers}
    assert translator(torch.zeros(1, 3, 16, 16), "squares").shape == (1, 3, 16, 16)


def test_going_on_needs_the_weights_that_the_adapters_were_made_for(
    train_config: TrainConfig, weights: Path, display: Any, tmp_path: Path
) -> None:
    own = tmp_path / "model.safetensors"
    own.write_bytes(weights.read_bytes())
    config = short(train_config.model_copy(update={"weights": str(own)}), {"rank": 2})
    out = train(config, tmp_path / "run", resume=False, display=display, device="cpu")
    assert not any("attention.out.base_layer" in name for name in load_tensors(_newest(out))[0])
    model = load_model(own)
    with torch.no_grad():
        model.backbone.get_parameter("head.weight").add_(1)
    model.save(own)
    with pytest.raises(ConfigError, match=r"circumstances differ .*backbone was"):
        train(config, out, resume=True, display=display, device="cpu")


def _newest(out: Path) -> Path:
    return sorted((out / "checkpoints").iterdir())[-1]


def test_without_peft_one_line_says_so(
    train_config: TrainConfig, display: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"needs the package peft.*pip install 'cyclevar\[lora\]'"):
        train(short(train_config, {"rank": 2}), tmp_path / "run", resume=False, display=display)
    assert not (tmp_path / "run").exists()
