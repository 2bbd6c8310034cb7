"""Estimates of memory: by what is known, in what they should differ by, and against what processes use."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from cyclevar.cli._tables import estimate_table
from cyclevar.core.bench.config import BenchConfig
from cyclevar.core.config.base import merged, validate
from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.diagnostics import memory_estimate as estimates
from cyclevar.core.diagnostics.memory_estimate import Estimate, estimate, estimate_training, estimate_translation
from cyclevar.core.errors import ConfigError
from cyclevar.core.models.catalog import open_model
from cyclevar.core.training.resolve import assemble

SMALL: dict[str, Any] = {
    "model": {
        "tokenizer": {"codebook_size": 32, "width": 32, "multipliers": [1], "residual_blocks": 1, "patch": 4},
        "backbone": {"depth": 2, "width": 64, "heads": 2},
        "schedule": "1-2-4-8",
    },
    "loss": {"perceptual": 0.0},
    "discriminator": {"settings": {"augment": []}},
    "batch_size": 2,
    "precision": "float32",
}
"""A training of pictures of 32 pixels."""


def of(mode: str, **changes: Any) -> Estimate:
    return estimate(validate(BenchConfig, {"mode": mode, "preset": "tiny", "dtype": "float32", **changes}))


def of_training(**changes: Any) -> Estimate:
    return estimate_training(validate(TrainConfig, merged(SMALL, changes)))


@pytest.fixture(scope="module")
def joint() -> Estimate:
    return of_training()


def activations(found: Estimate) -> int:
    return sum(size for name, size in found.memory.items() if name.startswith("activations"))


def test_weights_are_what_a_model_has() -> None:
    found = of("parallel")
    model = open_model("var", "tiny")
    for part in ("tokenizer", "backbone"):
        tensors = [*model.get_submodule(part).parameters(), *model.get_submodule(part).buffers()]
        count = sum(tensor.numel() for tensor in model.get_submodule(part).parameters())
        # the weights that ship know the names of two domains
        assert found.parameters[part] == pytest.approx(count, rel=1e-3)
        assert found.memory[part] == pytest.approx(sum(tensor.nbytes for tensor in tensors), rel=1e-3)
    assert found.peak_bytes == sum(found.memory.values())
    assert found.trained == 0


def test_a_larger_batch_needs_more_for_activations_alone() -> None:
    one, four = of("parallel"), of("parallel", batch=4)
    assert one.memory["backbone"] == four.memory["backbone"]
    assert 3.5 < activations(four) / activations(one) < 4.5


@pytest.mark.parametrize("mode", ["parallel", "serial", "generate"])
@pytest.mark.parametrize(
    "family", ["var", *(pytest.param(family, marks=pytest.mark.slow) for family in ("infinity", "flexvar"))]
)
def test_every_family_and_mode(family: str, mode: str) -> None:
    found = of(mode, backbone=family)
    assert activations(found) > 2**20
    assert "a picture" in found.what


def test_half_precision_halves_the_weights() -> None:
    full, half = of("parallel"), of("parallel", dtype="bf16")
    assert half.memory["backbone"] == pytest.approx(full.memory["backbone"] / 2, rel=0.01)


def test_a_training_has_states_gradients_and_an_average(joint: Estimate) -> None:
    size = 4 * joint.trained
    assert joint.trained == joint.parameters["backbone"]
    assert joint.memory["moving average"] == pytest.approx(size, rel=0.01)
    judges = joint.memory["discriminators"]
    assert joint.memory["optimizer"] == pytest.approx(2 * (size + judges), rel=0.01)
    assert joint.memory["past pictures"] == 4 * 64 * 3 * 32 * 32 * 4 + 4 * 8
    assert joint.validation_bytes > 0
    assert set(joint.savings) == {
        "--set objective.chunk=1",
        "--set gradient_checkpointing=true",
        "--set lora.rank=8",
        "--set precision=bf16",
        "a smaller --batch-size",
    }


def test_a_training_as_a_table(joint: Estimate, capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=100).print(estimate_table(joint))
    printed = capsys.readouterr().out
    assert printed.startswith("training on 2 pictures of each domain in an update: 0.")
    assert f"{joint.trained:,} parameters are trained. Validation: 0." in printed
    rows = [line.split("│")[1].strip() for line in printed.splitlines() if line.startswith("│")]
    assert rows[:4] == ["tokenizer", "backbone", "moving average", "discriminators"]
    assert "losses" not in rows
    assert "Less memory: --set objective.chunk=1" in printed


@pytest.mark.parametrize(
    ("settings", "below"),
    [
        ({"gradient_checkpointing": True}, 0.6),
        ({"objective": {"chunk": 1}}, 0.7),
        pytest.param({"objective": {"order": "turbo"}}, 0.8, marks=pytest.mark.slow),
        pytest.param({"precision": "bf16"}, 0.9, marks=pytest.mark.slow),
    ],
)
def test_what_saves_memory(joint: Estimate, settings: dict[str, Any], below: float) -> None:
    assert activations(of_training(**settings)) < below * activations(joint)


def test_adapters_need_neither_states_nor_an_average_of_the_backbone(joint: Estimate) -> None:
    pytest.importorskip("peft", reason="no peft: pip install 'cyclevar[lora]'")
    found = of_training(lora={"rank": 2})
    assert found.trained < joint.trained / 4
    saved = joint.memory["optimizer"] - found.memory["optimizer"]
    assert saved == pytest.approx(8 * (joint.trained - found.trained), rel=0.01)
    assert found.memory["backbone"] == pytest.approx(joint.memory["backbone"], rel=0.01)
    assert found.memory["moving average"] < joint.memory["moving average"] / 4
    assert found.parameters["adapters"] == found.trained


def test_a_model_of_two_thousand_million_parameters_is_not_built() -> None:
    found = of("parallel", backbone="infinity", preset="2b", dtype="bf16")
    assert found.parameters["backbone"] > 2e9
    assert found.memory["backbone"] == pytest.approx(2 * found.parameters["backbone"], rel=0.05)


def test_settings_of_a_training_are_followed() -> None:
    small = ["batch_size=1", "model.width=8", "model.residual_blocks=1", "model.size=32", "loss.perceptual=0"]
    found = estimate_training(assemble(TrainConfig, None, None, {"backbone": "cyclegan"}, small))
    assert set(found.parameters) >= {"model", "moving average", "discriminators"}
    assert found.trained == found.parameters["model"]
    assert "--set lora.rank=8" not in found.savings


def test_a_translation_by_a_model_that_is_there() -> None:
    model = open_model("var", "tiny")
    before = torch.get_rng_state()
    found = estimate_translation(model, 2, TranslationConfig())
    assert "2 pictures" in found.what
    assert found.savings == ("--batch 1",)
    assert torch.equal(before, torch.get_rng_state())
    assert not any(tensor.is_meta for tensor in model.parameters())


@pytest.mark.parametrize("mode", ["parallel", "generate"])
def test_large_batches_take_proportionally_more(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "LARGEST", 8)
    grown = of(mode, batch=24)
    monkeypatch.setattr(estimates, "LARGEST", 64)
    followed = of(mode, batch=24)
    assert grown.what == followed.what
    assert grown.memory == {name: pytest.approx(size, rel=0.01) for name, size in followed.memory.items()}


def test_a_size_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ConfigError, match="makes no pictures of 100x100"):
        of("parallel", size=100)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["parallel", "train"])
@pytest.mark.parametrize("family", ["var", "infinity", "flexvar"])
def test_estimates_are_near_what_processes_use(
    family: str, mode: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(root / "tools"))  # the process that it starts imports it too
    tool = importlib.import_module("check_estimates")
    config = tool.training(family, "tiny", 4) if mode == "train" else tool.translation(family, "tiny", 8)
    predicted, found = estimate(config).peak_bytes, tool.measured(config)
    assert abs(predicted - found) < max(0.25 * found, 50e6)
