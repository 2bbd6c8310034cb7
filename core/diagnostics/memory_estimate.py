"""Estimate the memory that a model needs, by running a pass of it on fake tensors (`memory_ledger`).

What is counted is what tensors hold. The process itself comes on top (Python, torch and its libraries, on a GPU the
CUDA context), and what libraries of convolutions and matrix products use inside a call.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from cyclevar.core.bench.config import BenchConfig, training_settings
from cyclevar.core.bench.stages import watched
from cyclevar.core.bench.work import sized
from cyclevar.core.config.base import Settings
from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.data.batches import UnpairedBatches
from cyclevar.core.data.sources import Part
from cyclevar.core.diagnostics.memory_ledger import Ledger, tensors_of
from cyclevar.core.interfaces.model import PictureModel
from cyclevar.core.models.model import Model, build, build_any
from cyclevar.core.networks.feature_net import FeatureNet
from cyclevar.core.next_scale.generation import generate
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.core.training.losses.objective import Targets
from cyclevar.core.training.losses.reconstruction import build_reconstructions
from cyclevar.core.training.tasks.image_pool import ImagePool
from cyclevar.core.training.tasks.translator import TranslatorTask
from cyclevar.core.weights.checkpoints import load_metadata
from cyclevar.core.weights.shipped import WEIGHTS

ORDER = (
    *("tokenizer", "backbone", "model", "adapters", "moving average", "discriminators", "losses", "past pictures"),
    *("optimizer", "gradients", *(f"activations: {stage}" for stage in ("encode", "backbone", "decode", "other"))),
)
"""Of the components."""

VALIDATED = 16
"""Pictures that a training translates together when it validates."""

LARGEST = 64
"""Pictures of the largest batch that is followed through a pass."""


class Estimate(Settings):
    """What a pass needs. `activations` are whatever it makes, by the stage that made it; other names hold weights."""

    cyclevar: str
    what: str
    """The pass, in a few words."""
    parameters: dict[str, int]
    """How many, by component."""
    trained: int
    """Of the model's."""
    memory: dict[str, int]
    """Bytes at the moment when most are in use, by component."""
    peak_bytes: int
    """All of them."""
    validation_bytes: int
    """The same while a training validates; 0 where nothing is trained."""
    savings: tuple[str, ...]
    """Options that are not used and would save memory."""

    @property
    def needed(self) -> str:
        """How much, and for what."""
        return f"{max(self.peak_bytes, self.validation_bytes) / 1e9:.1f} GB for {self.what}"

    def rows(self) -> list[tuple[str, int, int]]:
        """Name, parameters and bytes of every component."""
        names = sorted({*self.parameters, *self.memory}, key=ORDER.index)
        return [(name, self.parameters.get(name, 0), self.memory.get(name, 0)) for name in names]


def estimate(config: BenchConfig) -> Estimate:
    """What the pass that `cyclevar bench` would time needs, on the plain path and on any weights.

    Raises `UnknownNameError` and `ConfigError` for what cannot be built.
    """
    changes: dict[str, Any] = {} if config.schedule is None else {"schedule": config.schedule}
    settings = training_settings(config)
    changes |= settings.model

    def made() -> Model:
        return sized(build(settings.backbone, settings.preset, initialize=False, **changes), config.size)

    if config.mode == "train":
        return estimate_training(settings) if settings.weights else _trainings(made, settings)
    return _passes(made, config.mode, config.batch, half=config.dtype == "bf16")


def estimate_training(config: TrainConfig) -> Estimate:
    """What the largest update of a training needs, and its validation."""
    family, settings = config.backbone, config.preset
    path = None if config.weights is None else Path(config.weights)
    if path is not None and path.exists():
        stored = load_metadata(path / WEIGHTS if path.is_dir() else path)
        family, settings = stored["family"], stored["config"]
    return _trainings(lambda: build_any(family, settings, initialize=False, **config.model), config)


def estimate_translation(model: PictureModel, batch: int, config: TranslationConfig) -> Estimate:
    """What translating ``batch`` pictures with a model such as this one needs."""
    return _passes(lambda: build_any(model.family, model.config, initialize=False), config.mode, batch)


def estimate_drawing(model: Model, batch: int, schedule: ScaleSchedule) -> Estimate:
    """What drawing ``batch`` pictures at once with a model such as this one needs, on a schedule of its own."""
    return _passes(lambda: build(model.family, model.config, initialize=False).at(schedule), "generate", batch)


def _passes(made: Callable[[], PictureModel], mode: str, batch: int, *, half: bool = False) -> Estimate:
    doing = "drawing" if mode == "generate" else "translating"
    pictures = "a picture" if batch == 1 else f"{batch} pictures at once"
    found = _extrapolated(lambda batch: _pass(made(), mode, batch, half=half), batch)
    return found.model_copy(update={"what": f"{doing} {pictures}"})


def _trainings(made: Callable[[], PictureModel], config: TrainConfig) -> Estimate:
    def of(batch: int) -> Estimate:
        return _training(made(), config.model_copy(update={"batch_size": batch}))

    what = f"training on {config.batch_size * config.accumulate} pictures of each domain in an update"
    return _extrapolated(of, config.batch_size).model_copy(update={"what": what})


def _extrapolated(of: Callable[[int], Estimate], batch: int) -> Estimate:
    """The estimate ``of`` a batch. Above the `LARGEST` memory grows by as much a picture as from half of that on."""
    if batch <= LARGEST:
        return of(batch)
    half, whole = of(LARGEST // 2), of(LARGEST)

    def grown(less: int, more: int) -> int:
        return more + (more - less) * (batch - LARGEST) // (LARGEST // 2)

    memory = {name: grown(half.memory.get(name, 0), size) for name, size in whole.memory.items()}
    validation = grown(half.validation_bytes, whole.validation_bytes)
    update = {"memory": memory, "peak_bytes": sum(memory.values()), "validation_bytes": validation}
    return whole.model_copy(update=update)


def _target(model: PictureModel) -> int | str:
    """Something that the model can be told."""
    if isinstance(model, Model):
        return model.backbone.any_target()
    if not model.names:
        model.learn(("a", "b"))
    return model.names[0]


def _weights(model: PictureModel) -> dict[str, list[Tensor]]:
    """Tensors by part."""
    if not isinstance(model, Model):
        return {"model": list(tensors_of(model))}
    parts = {"tokenizer": list(tensors_of(model.tokenizer)), "backbone": list(tensors_of(model.backbone))}
    trained = [tensor for tensor in parts["backbone"] if tensor.requires_grad]
    if 0 < len(trained) < len(list(model.backbone.parameters())):
        parts["adapters"] = trained
        parts["backbone"] = [tensor for tensor in parts["backbone"] if not tensor.requires_grad]
    return parts


@contextlib.contextmanager
def _running(ledger: Ledger, model: PictureModel) -> Iterator[None]:
    stages = watched(model, ledger) if isinstance(model, Model) else contextlib.nullcontext()
    with ledger.running(), stages:
        yield


def _result(ledger: Ledger, parts: Mapping[str, Sequence[Tensor]], **more: Any) -> Estimate:
    memory = {name: size for name, size in ledger.at_peak.items() if size}
    parts = {name: some for name, some in parts.items() if name in memory}
    counts = {name: sum(one.numel() for one in some if isinstance(one, nn.Parameter)) for name, some in parts.items()}
    facts: dict[str, Any] = {"what": "", "trained": 0, "validation_bytes": 0, **more}
    version = importlib.metadata.version("cyclevar")
    return Estimate(cyclevar=version, parameters=counts, memory=memory, peak_bytes=sum(memory.values()), **facts)


def _pass(model: PictureModel, mode: str, batch: int, *, half: bool) -> Estimate:
    """Of a translation or a drawing; ``half``: in bf16, weights and all."""
    target, ledger = _target(model), Ledger()
    model.requires_grad_(False).eval().to(torch.bfloat16 if half else torch.float32)
    ledger.take_weight(model)
    parts = _weights(model)
    for name, tensors in parts.items():
        ledger.count(name, tensors)
    autocast = torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()
    with _running(ledger, model), torch.inference_mode(), autocast:
        condition = model.condition([target] * batch)
        if mode == "generate":
            assert isinstance(model, Model)
            generate(model, condition)
        else:
            settings = TranslationConfig(mode="serial" if mode == "serial" else "parallel")
            context = model.encode(torch.zeros(batch, 3, *model.image_size))
            model.translate(context, condition, settings)
    return _result(ledger, parts, savings=("--batch 1",) if batch > 1 else ())


def _training(model: PictureModel, config: TrainConfig) -> Estimate:
    """Of an update of the adversarial stage in which every loss is due, and of the validation."""
    ledger, task, parts = weightless_training(model, config)
    with _running(ledger, model):
        task.update(_all_due(config))
    update = ledger.at_peak
    with _running(ledger, model), torch.no_grad():
        task.optimizer.zero_grad()
        task._translate(task.ema.module, torch.zeros(VALIDATED, 3, *model.image_size), task.targets[0])
    validation, ledger.at_peak = sum(ledger.at_peak.values()), update
    trained = sum(one.numel() for one in model.translates.parameters() if one.requires_grad)
    return _result(ledger, parts, trained=trained, validation_bytes=validation, savings=_savings(model, config))


def weightless_training(
    model: PictureModel, config: TrainConfig
) -> tuple[Ledger, TranslatorTask, dict[str, list[Tensor]]]:
    """A training of a model on the meta device, in its adversarial stage, for runs inside ``ledger.running()``.

    Also gives its tensors by component, which the ledger counts, with gradients and the optimizers' states.
    """
    target, ledger = _target(model), Ledger()
    targets: Targets = (target, target) if isinstance(model, Model) else (model.names[0], model.names[1])
    task = _task(model, config, targets)
    whole = nn.ModuleList([task.model, task.ema, task.discriminators, task.pools, *task.reconstructions])
    optimizers = task.optimizer, task.discriminator_optimizer
    ledger.take_weight(whole, optimizers)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["fused"] = True
    parts = {
        "losses": list(tensors_of(nn.ModuleList(task.reconstructions))),
        "past pictures": list(tensors_of(task.pools)),
        "discriminators": list(tensors_of(task.discriminators)),
        "moving average": list(tensors_of(task.ema)),
        **_weights(model),
    }
    for name, tensors in parts.items():
        ledger.count(name, tensors)
    for parameter in whole.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(
                lambda parameter: ledger.count("gradients", [parameter.grad] if parameter.grad is not None else [])
            )
    for optimizer in optimizers:
        _make_state(optimizer, ledger)
    return ledger, task, parts


def _savings(model: PictureModel, config: TrainConfig) -> tuple[str, ...]:
    """What a training may set to need less."""
    tokens = isinstance(model, Model)
    ways = {
        "--set objective.chunk=1": config.pictures_at_once != 1 and config.batch_size * config.accumulate > 1,
        "--set gradient_checkpointing=true": tokens and not config.gradient_checkpointing,
        "--set lora.rank=8": tokens and not config.lora.rank,
        "--set precision=bf16": config.precision != "bf16",
        "a smaller --batch-size": config.batch_size > 1,
    }
    return tuple(way for way, helps in ways.items() if helps)


def _make_state(optimizer: Optimizer, ledger: Ledger) -> None:
    """What an optimizer keeps of its parameters, as if it had updated them before."""
    with ledger.running():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
    ledger.count("optimizer", (one for state in optimizer.state.values() for one in state.values()))


def _all_due(config: TrainConfig) -> int:
    """A step in which every loss and penalty is paid."""
    return config.loss.cycle_every * config.loss.identity_every * config.discriminator.r1_every * config.diagnose_every


def _task(model: PictureModel, config: TrainConfig, targets: Targets) -> TranslatorTask:
    """The training at the beginning of its adversarial stage, on a model that has no weights."""
    model.to = lambda *where, **how: model  # type: ignore[method-assign]  # there is nothing to move
    half = config.precision == "bf16"
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        process_index=0,
        num_processes=1,
        autocast=(lambda: torch.autocast("cpu", torch.bfloat16)) if half else contextlib.nullcontext,
        backward=lambda loss, **how: loss.backward(**how),
    )
    warmup = config.warmup.model_copy(update={"steps": 0})
    discriminator = config.discriminator.model_copy(update={"pretrain_steps": 0})
    task = TranslatorTask(
        model,
        config.model_copy(update={"warmup": warmup, "discriminator": discriminator}),
        cast(UnpairedBatches, _Blank(config.batch_size * config.accumulate, model.image_size)),
        (torch.zeros(0), torch.zeros(0)),
        cast(Part, None),
        targets,
        build_reconstructions(config.loss),
        cast(FeatureNet, nn.Identity()),
        cast(Accelerator, accelerator),
    )
    for pool in task.pools:
        assert isinstance(pool, ImagePool)
        pool.count.fill_(len(pool.images))
    task.progress.get_buffer("adversarial_since").fill_(0)
    return task


class _Blank:
    """Batches of nothing."""

    def __init__(self, batch_size: int, size: tuple[int, int]) -> None:
        self._shape = batch_size, 3, *size

    def iterate(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield torch.zeros(self._shape), torch.zeros(self._shape)
