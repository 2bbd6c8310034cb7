"""An update of several batches is, to rounding, the one that as many pictures at once give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cyclevar.core.config.base import merged, validate
from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.training import launch as start
from cyclevar.core.training.task import Task

pytestmark = pytest.mark.usefixtures("light")


class EnoughError(Exception):
    """Ends a training."""


def updated(
    config: TrainConfig | PretrainConfig,
    changes: Mapping[str, Any],
    steps: range,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[dict[str, Tensor], Mapping[str, float], Task]:
    """Gradients of the parameters and figures after the updates ``steps`` of a training with ``changes``."""
    caught: list[Any] = []

    def run(task: Task, *others: Any) -> None:
        for step in steps:
            figures = task.update(step)
        caught.extend((task, figures))
        raise EnoughError

    monkeypatch.setattr(start, "run", run)
    settings = validate(type(config), merged(config.model_dump(), changes))
    begin: Any = start.train if isinstance(config, TrainConfig) else start.pretrain
    with pytest.raises(EnoughError):
        begin(settings, folder, resume=False, display=Silent(), device="cpu")
    task, figures = caught
    parts = task.parts()
    gradients = {
        f"{part}/{name}": parameter.grad
        for part, owner in parts.items()
        if isinstance(owner, nn.Module)
        for name, parameter in owner.named_parameters()
        if parameter.grad is not None
    }
    assert sum(isinstance(owner, Optimizer) for owner in parts.values()) in (1, 2)
    return gradients, figures, task


class Silent:
    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...


PLAIN = {"settings": {"width": 8, "augment": []}}
"""Nothing random in what a discriminator sees."""


@pytest.mark.parametrize(
    ("kind", "changes", "steps"),
    [
        ("train_config", {}, range(1)),
        (
            "train_config",
            {"warmup": {"steps": 0}, "discriminator": PLAIN | {"pretrain_steps": 1, "updates": 1}},
            range(1),
        ),
        (
            "train_config",
            {"warmup": {"steps": 0}, "discriminator": PLAIN | {"pretrain_steps": 0, "updates": 1}},
            range(1),
        ),
        ("backbone_config", {"transformer": {"condition_dropout": 0.0}}, range(1)),
        ("tokenizer_config", {"tokenizer": {"latent_noise": 0.0}}, range(1)),
        ("tokenizer_config", {}, range(5, 6)),
        ("tokenizer_config", {"tokenizer": {"perceptual_from": 5}}, range(5, 6)),
        ("tokenizer_config", {}, range(13, 14)),
    ],
    ids=["warm-up", "discriminators", "adversarial", "backbone", "autoencoder", "codes", "perceptual", "finish"],
)
def test_batches_of_an_update_add_up(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    changes: dict[str, Any],
    steps: range,
) -> None:
    config = request.getfixturevalue(kind)
    section = "" if isinstance(config, TrainConfig) else config.section
    found = []
    for name, batch, parts in (("whole", 6, 1), ("parts", 2, 3)):
        sizes = {"batch_size": batch, "accumulate": parts}
        more = merged(changes, {section: merged(changes.get(section, {}), sizes)} if section else sizes)
        found.append(updated(config, more, steps, tmp_path / name, monkeypatch))
    (whole, figures, task), (parts_of_it, again, other) = found
    assert task.pictures_per_step == other.pictures_per_step == (6 if section else 12)
    assert whole.keys() == parts_of_it.keys() != set()
    if section == "tokenizer":  # whose discriminator sees the pictures in another order, and augments them by chance
        whole = {name: gradient for name, gradient in whole.items() if not name.startswith("discriminator/")}
    norm = torch.stack([gradient.norm() for gradient in whole.values()]).norm()
    difference = torch.stack([(parts_of_it[name] - gradient).norm() for name, gradient in whole.items()]).norm()
    assert difference < 1e-4 * norm
    added = {name: value for name, value in figures.items() if name not in ("discriminator", "latent_error")}
    assert {name: again[name] for name in added} == pytest.approx(added, rel=1e-3, abs=1e-4)


def test_a_part_at_a_time_passes_through_the_generator() -> None:
    def at_once(**changes: Any) -> int:
        return validate(TrainConfig, changes).pictures_at_once

    assert at_once(batch_size=4) == 0
    assert at_once(batch_size=4, accumulate=2) == 4
    assert at_once(batch_size=4, objective={"chunk": 3}) == 3
    assert at_once(batch_size=4, accumulate=2, objective={"chunk": 3}) == 3
    assert at_once(batch_size=4, accumulate=2, objective={"chunk": 7}) == 4
