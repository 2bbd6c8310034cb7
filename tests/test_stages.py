"""The smoke test: tokenizer, backbone and translator from nothing, on the built-in pictures.

It says that each stage does its work, not how well: its bounds are far from what a sound training gives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclevar.core.config.base import validate
from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.data.batches import stack
from cyclevar.core.data.datasets import open_dataset
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.training.launch import pretrain, train

MODEL: dict[str, Any] = {"tokenizer": {"width": 64, "codebook_size": 1024}, "schedule": "1-2-4-8-16"}
"""Changes to the tiny preset that make it train faster."""


class Silent:
    """A display that shows nothing."""

    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def loop(steps: int) -> dict[str, int]:
    return {"steps": steps, "log_every": 10, "validate_every": steps, "sample_every": steps, "save_every": steps}


def metrics(run: Path) -> dict[str, list[float]]:
    """Every value of the log, in order."""
    found: dict[str, list[float]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        for name, value in json.loads(line).items():
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.slow
def test_every_stage_does_its_work(tmp_path: Path) -> None:
    tokenizer = {
        "loop": loop(700),
        "autoencoder_steps": 350,
        "finish_from": 700,
        "perceptual_from": 700,
        "latent_noise": 0.1,
        "ema": 0.98,
    }
    config = validate(PretrainConfig, {"model": MODEL, "tokenizer": tokenizer})
    pretrain(config, tmp_path / "tokenizer", resume=False, display=Silent())
    found = metrics(tmp_path / "tokenizer")
    assert min(found["validation/psnr_a"][-1], found["validation/psnr_b"][-1]) > 20

    transformer = {"loop": loop(60), "batch_size": 8, "optimizer": {"learning_rate": 1e-3, "warmup": 20}}
    start = {"stage": "backbone", "weights": str(tmp_path / "tokenizer")}
    config = validate(PretrainConfig, {**start, "transformer": transformer})
    pretrain(config, tmp_path / "backbone", resume=False, display=Silent())
    found = metrics(tmp_path / "backbone")
    assert found["validation/loss"][-1] < 0.98 * math.log(1024)

    stages = {"warmup": {"steps": 240}, "discriminator": {"pretrain_steps": 20}, "loop": loop(320)}
    start = {"weights": str(tmp_path / "backbone"), "batch_size": 2, "diagnose_every": 10}
    train(validate(TrainConfig, {**start, **stages}), tmp_path / "translator", resume=False, display=Silent())
    found = metrics(tmp_path / "translator")
    assert found["warmup_error"][-1] < 0.5
    assert all(math.isfinite(value) for values in found.values() for value in values)
    assert min(found["gradient/gan"]) > 0

    translator = Translator.load(tmp_path / "translator")
    dataset = open_dataset("emoji")
    assert dataset.validation is not None
    images = stack(dataset.validation[0], 64, 16)
    with torch.no_grad():
        translations, identity = (translator(images, domain) for domain in reversed(translator.domains))
    assert (translations - identity).abs().mean() > 1e-3
