"""From settings to a running training: pictures, model, task, run folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cyclevar.core.config import DataConfig, PretrainConfig, TrainConfig
from cyclevar.core.data.batches import UnpairedBatches, stack
from cyclevar.core.data.datasets import UnpairedDataset, open_dataset
from cyclevar.core.errors import ConfigError, DataError
from cyclevar.core.evaluation.features import load_feature_net
from cyclevar.core.evaluation.perceptual import perceptual_distance
from cyclevar.core.manager import get_manager
from cyclevar.core.model import Model, build, load_model
from cyclevar.core.shipped import shipped_weights
from cyclevar.core.training.backbone import BackboneTask
from cyclevar.core.training.loop import Display, Task, run
from cyclevar.core.training.objective import Targets
from cyclevar.core.training.runs import RunFolder
from cyclevar.core.training.tokenizer import TokenizerTask
from cyclevar.core.training.trainer import TranslatorTask
from cyclevar.core.translator import Translator

LOOKS = frozenset({"log_every", "validate_every", "sample_every", "save_every", "keep"})
"""Settings of the loop that may change when a run is resumed: they do not change what is learned."""


def pretrain(config: PretrainConfig, out: Path, *, resume: bool, display: Display) -> Path:
    """Train a tokenizer or a backbone; returns the model file, ``OUT/model.safetensors``."""
    config = get_manager().fold("cyclevar_configure", config)
    torch.manual_seed(config.seed)
    dataset = _open(config.data)
    model = load_model(config.weights) if config.weights else build(config.backbone, config.preset, **config.model)
    _check_size(model, config.data.size)
    validation = _validation(dataset, config.data.size)
    task: Task
    if config.stage == "tokenizer":
        settings, section = config.tokenizer, "tokenizer"
        batches = _batches(dataset, config.data, settings.batch_size // 2, config.seed)
        task = TokenizerTask(model.tokenizer, settings, batches, validation, config.seed)
        averaged = task.ema
    else:
        if config.weights is None:
            raise ConfigError(
                "stage backbone has no tokenizer to learn from",
                expected="weights with a trained tokenizer",
                hint="train one by --stage tokenizer first, then pass its model file with --weights",
            )
        transformer, section = config.transformer, "transformer"
        batches = _batches(dataset, config.data, transformer.batch_size // 2, config.seed)
        for name in dataset.domains:
            if name not in model.backbone.names:
                model.backbone.add_domain(name)
        task = BackboneTask(model, transformer, batches, validation, dataset.domains)
        averaged = task.ema
    loop = getattr(config, section).loop
    folder = RunFolder.open(out, config, resume=resume, free=frozenset(f"{section}.loop.{name}" for name in LOOKS))
    run(task, folder, loop, display)
    part = model.tokenizer if config.stage == "tokenizer" else model.backbone
    part.load_state_dict(averaged.module.state_dict())
    path = out / "model.safetensors"
    model.save(path)
    return path


def train(config: TrainConfig, out: Path, *, resume: bool, display: Display) -> Path:
    """Fine-tune a model to translate; returns the run folder, which is a translator that `Translator.load` opens."""
    config = get_manager().fold("cyclevar_configure", config)
    torch.manual_seed(config.seed)
    dataset = _open(config.data)
    model = start_model(config)
    _check_size(model, config.data.size)
    targets = choose_targets(model, config, dataset)
    net = load_feature_net(input_size=112)
    perceptual = perceptual_distance(config.loss.perceptual_distance)
    display.note(f"perceptual distance: {perceptual.name}; feature net: {net.name}")
    batches = _batches(dataset, config.data, config.batch_size, config.seed)
    reference = (stack(dataset.train[0], config.data.size, 600), stack(dataset.train[1], config.data.size, 600))
    task = TranslatorTask(
        model, config, batches, _validation(dataset, config.data.size), reference, targets, perceptual, net
    )
    folder = RunFolder.open(out, config, resume=resume, free=frozenset(f"loop.{name}" for name in LOOKS))
    run(task, folder, config.loop, display)
    model.backbone.load_state_dict(task.ema.module.state_dict())
    Translator(model, domains=dataset.domains, targets=targets, config=config.translation).save(out)
    return out


def start_model(config: TrainConfig) -> Model:
    """The model that a training starts from: given weights, published files, or what ships with the preset."""
    if config.weights:
        return load_model(config.weights)
    if config.tokenizer_weights or config.backbone_weights:
        if not (config.tokenizer_weights and config.backbone_weights):
            raise ConfigError(
                "published weights are given for one part only",
                expected="both --tokenizer-weights and --backbone-weights",
            )
        model = build(config.backbone, config.preset, **config.model)
        return model.load_official(config.tokenizer_weights, config.backbone_weights)
    shipped = shipped_weights(config.backbone, config.preset)
    if shipped is None:
        raise ConfigError(
            f"no weights ship with {config.backbone} {config.preset}",
            expected="--weights, or --tokenizer-weights and --backbone-weights",
            hint="`cyclevar pretrain` makes weights for your own pictures",
        )
    return load_model(shipped)


def choose_targets(model: Model, config: TrainConfig, dataset: UnpairedDataset) -> Targets:
    """What the backbone is told of the two domains; names that it does not know become new domains."""
    targets: Targets = config.targets or dataset.domains
    for target in targets:
        if isinstance(target, str) and target not in model.backbone.names and not target.isdecimal():
            model.backbone.add_domain(target)
    model.backbone.condition(list(targets))
    return targets


def _open(data: DataConfig) -> UnpairedDataset:
    return open_dataset(data.source, other=data.other, skin_tones=data.skin_tones)


def _batches(dataset: UnpairedDataset, data: DataConfig, batch_size: int, seed: int) -> UnpairedBatches:
    return UnpairedBatches(dataset.train, batch_size, data.size, load_size=data.load_size, flip=data.flip, seed=seed)


def _validation(dataset: UnpairedDataset, size: int) -> tuple[Tensor, Tensor]:
    if dataset.validation is None:
        raise DataError(
            "there are too few pictures to hold some out for validation", expected="at least 20 pictures of each domain"
        )
    return stack(dataset.validation[0], size, 128), stack(dataset.validation[1], size, 128)


def _check_size(model: Model, size: int) -> None:
    if model.image_size != (size, size):
        raise ConfigError(
            f"data.size is {size}", expected=f"{model.image_size[0]}, the side that this model is made for"
        )
