"""Pre-training a backbone."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.data.batches import UnpairedBatches, stack
from cyclevar.core.data.datasets import open_dataset
from cyclevar.core.models.model import Model, load_model
from cyclevar.core.next_scale.pyramid import teacher_inputs, tokenize
from cyclevar.core.training.stream import step_random
from cyclevar.core.training.tasks.backbone import BackboneTask


@pytest.fixture
def task(model: Model, backbone_config: PretrainConfig, pictures: Path, accelerator: Any) -> BackboneTask:
    dataset = open_dataset(pictures)
    assert dataset.validation is not None
    a, b = (stack(part, 16) for part in dataset.validation)
    batches = UnpairedBatches(dataset.train, 2, 16)
    torch.manual_seed(0)
    return BackboneTask(model, backbone_config.transformer, batches, (a, b), ("discs", "squares"), 0, accelerator)


def test_the_loss_is_the_mean_surprise_a_token(task: BackboneTask) -> None:
    model, images = task.model, task.validation[0]
    with torch.no_grad():
        pyramid = tokenize(model.tokenizer, model.tokenizer.encode(images), model.schedule)
        inputs = teacher_inputs(model.tokenizer, pyramid.maps, model.schedule)
        condition = model.backbone.condition(["discs"] * len(images))
        probabilities = model.backbone(inputs, condition, model.schedule).softmax(-1)
        loss = task._loss(model.backbone, images, ["discs"] * len(images), model.schedule)
    surprises = [
        -math.log(probabilities[i, position, code])
        for i in range(len(images))
        for position, code in enumerate(torch.cat([codes[i].flatten() for codes in pyramid.codes]).tolist())
    ]
    assert loss.item() == pytest.approx(sum(surprises) / len(surprises), rel=1e-4)


def test_a_model_without_knowledge_is_surprised_by_the_logarithm_of_the_codes(task: BackboneTask) -> None:
    for name in ("head.weight", "head.bias"):
        task.ema.module.get_parameter(name).data.zero_()
    found = task.validate(0)
    assert found["loss"] == pytest.approx(math.log(16))
    assert found["label_worth"] == pytest.approx(0.0, abs=1e-6)


def test_training_teaches_the_codes_and_leaves_the_tokenizer(task: BackboneTask) -> None:
    before = {name: value.clone() for name, value in task.model.tokenizer.state_dict().items()}
    begun = task.validate(0)["loss"]
    for step in range(12):
        figures = task.update(step)
        assert set(figures) == {"loss", "gradient_norm", "learning_rate"}
    assert task.validate(12)["loss"] < begun - 0.2
    assert all(torch.equal(value, before[name]) for name, value in task.model.tokenizer.state_dict().items())
    assert not any(parameter.requires_grad for parameter in task.model.tokenizer.parameters())


def test_labels_are_dropped_in_training_only(task: BackboneTask) -> None:
    images = task.validation[0]
    null = task.model.backbone.get_parameter("class_embedding")
    grads = []
    for dropout in (0.0, 1.0):
        null.grad = None
        task._loss(task.model.backbone, images, ["discs"] * len(images), task.model.schedule, dropout).backward()
        assert null.grad is not None
        grads.append(null.grad.norm(dim=1))
    kept, dropped = grads  # rows: discs, squares, no label
    assert kept[0] > 0 == kept[1] == kept[2]
    assert dropped[2] > 0 == dropped[0] == dropped[1]


def test_validation_and_samples_draw_nothing(task: BackboneTask) -> None:
    state = torch.get_rng_state()
    assert task.validate(0) == task.validate(0)
    rows = task.sample(0)
    assert [tuple(row.shape) for row in rows] == [(8, 3, 16, 16)] * 2
    assert all(torch.equal(x, y) for x, y in zip(rows, task.sample(0), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_family_may_train_on_schedules_of_its_own(
    flexvar_backbone_config: PretrainConfig, pictures: Path, accelerator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(pictures)
    a, b = (stack(part, 16) for part in dataset.validation or ())
    batches = UnpairedBatches(dataset.train, 2, 16)
    model = load_model(str(flexvar_backbone_config.weights))
    task = BackboneTask(
        model, flexvar_backbone_config.transformer, batches, (a, b), ("discs", "squares"), 7, accelerator
    )
    met, forward = list[str](), model.backbone.forward

    def watched(features: Any, condition: Any, schedule: Any, **more: Any) -> torch.Tensor:
        met.append(str(schedule))
        return forward(features, condition, schedule, **more)

    monkeypatch.setattr(model.backbone, "forward", watched)
    for step in range(20):
        task.update(step)
    drawn = [str(model.backbone.training_schedule(model.schedule, step_random(7, step))) for step in range(20)]
    assert met == drawn
    assert len(set(drawn)) > 1
    met.clear()
    monkeypatch.setattr(task.ema.module, "forward", watched)
    task.validate(20)
    assert set(met) == {str(model.schedule)}


def test_codes_are_corrupted_in_training_only(task: BackboneTask, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[tuple[int, float]]()

    def corrupt(codes: torch.Tensor, scale: int, random: Random) -> torch.Tensor:
        seen.append((scale, random.random()))
        return codes

    monkeypatch.setattr(task.model.tokenizer, "corrupt", corrupt)
    task.validate(0)
    assert seen == []
    task.update(3)
    random = step_random(0, 3)
    assert seen == [(scale, random.random()) for scale in range(3)]
