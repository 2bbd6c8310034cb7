"""From settings to a running training: pictures, model, task, run folder."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cyclevar.core.config.base import flat
from cyclevar.core.config.loop import DataConfig
from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.data.batches import UnpairedBatches, stack
from cyclevar.core.data.datasets import open_training_data
from cyclevar.core.data.sources import UnpairedDataset
from cyclevar.core.errors import CheckpointError, ConfigError, CyclevarError, DataError
from cyclevar.core.evaluation.perceptual import PerceptualDistance, perceptual_distance
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.interfaces.model import PictureModel
from cyclevar.core.models.catalog import open_model
from cyclevar.core.models.model import Model, build, build_direct, load_picture_model
from cyclevar.core.networks.feature_net import FeatureNet, load_feature_net
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.runtime.files import save_text, shown
from cyclevar.core.runtime.locks import FolderLock, InUseError
from cyclevar.core.runtime.machine import describe_machine
from cyclevar.core.runtime.memory import out_of_memory
from cyclevar.core.training.accelerator import make_accelerator
from cyclevar.core.training.loop import run
from cyclevar.core.training.lora import require_peft
from cyclevar.core.training.losses.objective import Targets
from cyclevar.core.training.losses.reconstruction import build_reconstructions
from cyclevar.core.training.processes import ALONE, Team
from cyclevar.core.training.resolve import next_folder
from cyclevar.core.training.run_folder import RunFolder
from cyclevar.core.training.task import Display, Task
from cyclevar.core.training.tasks.backbone import BackboneTask
from cyclevar.core.training.tasks.tokenizer import TokenizerTask
from cyclevar.core.training.tasks.translator import TranslatorTask
from cyclevar.core.training.tracking import Tracker, open_tracker
from cyclevar.core.weights.checkpoints import check_numbers, digest, load_tensors
from cyclevar.core.weights.name_table import strip_prefix
from cyclevar.core.weights.shipped import BEST, WEIGHTS, shipped_weights

LOOKS = (
    *("log_every", "validate_every", "sample_every", "save_every", "keep"),
    *("on_divergence", "most_restores", "spike"),
)
"""Settings of the loop that may change when a run is resumed: while all goes well, they change nothing learned."""

VALIDATION = 128
"""Most validation pictures of each domain that are used while training."""


def pretrain(
    config: PretrainConfig,
    out: Path,
    *,
    resume: bool,
    display: Display,
    device: str = "auto",
    allowed: Collection[str] | None = (),
    numbered: bool = False,
) -> Path:
    """Train a tokenizer or a backbone; returns the model file, ``OUT/model.safetensors``.

    ``resume``: go on with the run in ``out``, if there is one; ``allowed`` names settings and facts that may differ
    from those it had. ``device``: auto, cpu or cuda. ``numbered``: if the folder ``out`` is taken, use the next number
    (`prepare`).
    """
    config = get_manager().fold("cyclevar_configure", config)
    settings, section = getattr(config, config.section), config.section
    steps_are_free = config.stage == "backbone" and settings.optimizer.decay == "constant"
    free = {"tracker", *(f"{section}.loop.{name}" for name in (*LOOKS, *(["steps"] if steps_are_free else [])))}
    folder = RunFolder(out)
    if not numbered:
        folder.check(config, resume=resume, free=free, allowed=allowed)
    open_tracker(config.tracker, folder, config)  # raises if its package is missing
    accelerator = make_accelerator(device, config.precision)
    with _entered(folder, config, Team(accelerator), resume=resume, numbered=numbered) as entered:
        return _pretrain(config, entered, accelerator, resume=resume, display=display, free=free, allowed=allowed)


def _pretrain(
    config: PretrainConfig,
    folder: RunFolder,
    accelerator: Accelerator,
    *,
    resume: bool,
    display: Display,
    free: Collection[str],
    allowed: Collection[str] | None,
) -> Path:
    """Do what `pretrain` does, in a folder that is locked."""
    settings, out, team = getattr(config, config.section), folder.path, Team(accelerator)
    display, tracker = _leading(team, folder, display, open_tracker(config.tracker, folder, config))
    torch.manual_seed(config.seed)
    dataset = open_training_data(config.data)
    model = _pretraining_model(config)
    size = _picture_size(model, config.data)
    validation = _validation(dataset, size)
    batches = _batches(dataset, config.data, size, settings.batch_size // 2, settings.accumulate, config.seed, team)
    facts = {"data": f"{dataset.name} {dataset.fingerprint()}"}
    task: Task
    part: nn.Module
    if config.stage == "tokenizer":
        if not team.alone:
            raise ConfigError(
                f"{team.size} processes were started to train a tokenizer", expected="one: it is not shared out"
            )
        finish_size = config.tokenizer.finish_perceptual_size
        perceptual = perceptual_distance(), perceptual_distance(input_size=finish_size, levels=6)
        facts["perceptual_distance"] = _identify(perceptual[0])
        part = model.tokenizer
        if config.tokenizer.autoencoder_from is not None:
            _copy_autoencoder(model, config, display)
        trained = config.weights is not None and config.tokenizer.autoencoder_steps == 0
        task = TokenizerTask(
            model.tokenizer,
            config.tokenizer,
            batches,
            validation,
            config.seed,
            perceptual,
            accelerator,
            fit=not trained,
        )
    else:
        facts["tokenizer"] = digest(model.tokenizer)
        part = model.backbone
        targets = _default_targets(dataset, model, display)
        _learn_domains(model, targets, display)
        task = BackboneTask(model, config.transformer, batches, validation, targets, config.seed, accelerator)
    changes = folder.check(config, facts, resume=resume, free=free, allowed=allowed)
    team.demand_same(facts)
    machine = describe_machine(accelerator.device)
    begin = functools.partial(folder.begin, config, facts, machine, changes)
    display.note(f"{'going on with' if resume else 'writing'} {out}")
    with _bad_pictures(dataset, folder, display, team):
        run(task, folder, settings.loop, display, tracker, begin)
    part.load_state_dict(task.ema.module.state_dict())
    path = out / WEIGHTS
    if team.leads:
        model.save(path)
    return path


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool,
    display: Display,
    device: str = "auto",
    allowed: Collection[str] | None = (),
    numbered: bool = False,
) -> Path:
    """Fine-tune a model to translate; returns the run folder, which is a translator that `Translator.load` opens.

    ``resume``: go on with the run in ``out``, if there is one; ``allowed`` names settings and facts that may differ
    from those it had. ``device``: auto, cpu or cuda. ``numbered``: if the folder ``out`` is taken, use the next number
    (`prepare`).
    """
    config = get_manager().fold("cyclevar_configure", config)
    steps_are_free = config.optimizer.decay == "constant"
    free = {"tracker", "sharded", *(f"loop.{name}" for name in (*LOOKS, *(["steps"] if steps_are_free else [])))}
    folder = RunFolder(out)
    if not numbered:
        folder.check(config, resume=resume, free=free, allowed=allowed)
    open_tracker(config.tracker, folder, config)  # raises if its package is missing
    if config.lora.rank:
        require_peft()
        if config.sharded:
            raise ConfigError("sharded is true beside lora.rank", expected="one of the two: adapters are small")
    accelerator = make_accelerator(device, config.precision)
    with _entered(folder, config, Team(accelerator), resume=resume, numbered=numbered) as entered:
        return _train(config, entered, accelerator, resume=resume, display=display, free=free, allowed=allowed)


def _train(
    config: TrainConfig,
    folder: RunFolder,
    accelerator: Accelerator,
    *,
    resume: bool,
    display: Display,
    free: Collection[str],
    allowed: Collection[str] | None,
) -> Path:
    """Do what `train` does, in a folder that is locked."""
    out, team = folder.path, Team(accelerator)
    display, tracker = _leading(team, folder, display, open_tracker(config.tracker, folder, config))
    torch.manual_seed(config.seed)
    dataset = open_training_data(config.data)
    model = start_model(config)
    size = _picture_size(model, config.data)
    validation = _validation(dataset, size)
    targets: Targets = config.targets or _default_targets(dataset, model, display)
    _learn_domains(model, targets, display)
    net = load_feature_net(input_size=112)
    reconstructions = build_reconstructions(config.loss)
    display.note(f"perceptual distance: {reconstructions.frozen() or 'none'}; feature net: {net.name}")
    facts = {
        "data": f"{dataset.name} {dataset.fingerprint()}",
        "perceptual_distance": reconstructions.frozen(),
        "feature_net": f"{_identify(net)} at {net.input_size} px",
    }
    if isinstance(model, Model):
        facts["tokenizer"] = digest(model.tokenizer)
    if config.lora.rank:
        facts["backbone"] = digest(model.translates)  # checkpoints hold the adapters alone
    batches = _batches(dataset, config.data, size, config.batch_size, config.accumulate, config.seed, team)
    task = TranslatorTask(
        model,
        config,
        batches,
        validation,
        dataset.train,
        targets,
        reconstructions,
        net,
        accelerator,
        note=display.note,
    )
    if frozen := task.frozen_judge():
        facts["discriminator"] = frozen  # checkpoints hold its heads alone
    changes = folder.check(config, facts, resume=resume, free=free, allowed=allowed)
    team.demand_same(facts)
    machine = describe_machine(accelerator.device)
    begin = functools.partial(folder.begin, config, facts, machine, changes)
    display.note(f"{'going on with' if resume else 'writing'} {out}")
    with _bad_pictures(dataset, folder, display, team), _nothing_left(folder, team, resume=resume):
        run(task, folder, config.loop, display, tracker, begin)

    def save(model: PictureModel, where: Path) -> None:
        if team.leads:
            Translator(model, domains=dataset.domains, targets=targets, config=config.translation).save(where)

    best = folder.best()
    save(task.finished(copied=best is not None), out)
    if best is not None:
        folder.restore_best(task.averaged())
        save(task.finished(), out / BEST)
        display.note(f"best in validation was step {best.step}: {out / BEST} (--checkpoint best)")
    return out


@contextlib.contextmanager
def _entered(
    folder: RunFolder, config: TrainConfig | PretrainConfig, team: Team, *, resume: bool, numbered: bool
) -> Iterator[RunFolder]:
    """Lock the run folder, with ``numbered`` the next free one, and have all processes agree on it and on settings.

    Raises, in every process:
        ConfigError: settings differ between processes, or another training is in the folder.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(team.watching(folder.path))
        place = {} if numbered else {"run folder": str(folder.path)}
        team.demand_same({**flat(config.model_dump(mode="json")), **place, "resume": resume})
        path, problem = folder.path, None
        if team.leads:
            try:
                lock, path = _lock(folder.path, numbered=numbered)
                held.enter_context(lock)
            except CyclevarError as error:
                problem = error
        path, problem = team.answer((path, problem))
        if problem is not None:
            raise problem
        yield RunFolder(path)


def _lock(path: Path, *, numbered: bool) -> tuple[FolderLock, Path]:
    """Return the lock of a run folder and the folder; with ``numbered`` of the first one that is free."""
    while True:
        try:
            return FolderLock(path, new=numbered), path
        except InUseError:
            if not numbered:
                raise
            path = next_folder(path)


class _Silent:
    """The display of all processes but the leading one."""

    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def _leading(team: Team, folder: RunFolder, display: Display, tracker: Tracker) -> tuple[Display, Tracker]:
    """What shows and tracks in this process: nothing, nor is anything written, unless it leads."""
    folder.writes = team.leads
    return (display, tracker) if team.leads else (_Silent(), Tracker())


def start_model(config: TrainConfig) -> PictureModel:
    """The model that a training starts from: given or published weights, what ships, or a generator from scratch."""
    if config.weights and config.backbone_weights:
        raise ConfigError("both weights and backbone_weights are given", expected="one of the two")
    if config.backbone_weights and not config.tokenizer_weights:
        raise ConfigError(
            "published weights are given for one part only",
            expected="both --tokenizer-weights and --backbone-weights",
        )
    if config.backbone in get_manager().registry.names("generator"):
        return _start_direct(config)
    return open_model(
        config.backbone,
        config.preset,
        weights=config.weights or config.backbone_weights,
        tokenizer_weights=config.tokenizer_weights,
        changes=config.model,
    )


def _start_direct(config: TrainConfig) -> PictureModel:
    """A generator with fresh weights, or with those of a model file, which brings its own settings."""
    if config.tokenizer_weights or config.backbone_weights:
        raise ConfigError(
            f"published weights are given for {config.backbone}", expected="--weights of your own or none"
        )
    if config.weights is None:
        return build_direct(config.backbone, config.preset, **config.model)
    model = load_picture_model(_model_file(config.weights))
    if model.family != config.backbone:
        raise ConfigError(f"{config.weights} belongs to {model.family}", expected=config.backbone)
    return model


def _pretraining_model(config: PretrainConfig) -> Model:
    if config.weights:
        return open_model(config.backbone, weights=config.weights, changes=config.model)
    if config.stage == "backbone":
        raise ConfigError(
            "stage backbone has no tokenizer to learn from",
            expected="--weights with a trained tokenizer",
            hint="train one by --stage tokenizer first, then pass its run folder with --weights",
        )
    return build(config.backbone, config.preset, **config.model)


AUTOENCODER = ("encoder.", "decoder.", "before_quantizer.", "after_quantizer.")
"""What the names of an autoencoder's tensors begin with, in every family's tokenizer."""


def _copy_autoencoder(model: Model, config: PretrainConfig, display: Display) -> None:
    """Start encoder and decoder from those of another tokenizer, and tell which of their tensors fit."""
    source = config.tokenizer.autoencoder_from
    assert source is not None
    path = _model_file(source)
    if source in get_manager().registry.names("backbone"):
        shipped = shipped_weights(source, config.preset)
        if shipped is None:
            raise ConfigError(f"no weights ship with {source} {config.preset}", expected="a model file or a run folder")
        path = shipped
    found = strip_prefix(load_tensors(path)[0], "tokenizer.")
    own = {name: tensor for name, tensor in model.tokenizer.state_dict().items() if name.startswith(AUTOENCODER)}
    fitting = {name: found[name] for name, tensor in own.items() if name in found and found[name].shape == tensor.shape}
    if 2 * len(fitting) < len(own):
        raise CheckpointError(
            f"of {path} only {len(fitting)} tensors fit the {len(own)} of the autoencoder",
            expected="a model with a tokenizer of the same width, multipliers, residual_blocks and patch",
        )
    check_numbers(str(path), fitting, own)
    model.tokenizer.load_state_dict(fitting, strict=False)
    left = [name for name in own if name not in fitting]
    display.note(
        f"{len(fitting)} of the {len(own)} tensors of the autoencoder come from {path}"
        + (f"; new are {', '.join(left[:6])}{' and more' if len(left) > 6 else ''}" if left else "")
    )


def _model_file(weights: str | Path) -> Path:
    """A model file, given itself or the run folder that holds it."""
    path = Path(weights)
    return path / WEIGHTS if path.is_dir() else path


def _learn_domains(model: PictureModel, targets: Sequence[int | str], display: Display) -> None:
    """Let the model know what its targets are called, and tell which are new to it."""
    if any(not str(target).strip() for target in targets):
        raise ConfigError("a target is empty", expected="a name, a class id or a prompt for each domain")
    for name in model.learn(targets):
        display.note(f"{name} is new to the model")


def _identify(net: FeatureNet | PerceptualDistance) -> str:
    return f"{net.name} {net.weights_sha256[:16]}"


def _default_targets(dataset: UnpairedDataset, model: PictureModel, display: Display) -> tuple[str, str]:
    """The prompts that the data bring, for a backbone that reads text; else the names of the domains."""
    if dataset.prompts is None:
        return dataset.domains
    if isinstance(model, Model) and "text" in model.backbone.capabilities:
        display.note(f"prompts of the data: {' and '.join(map(repr, dataset.prompts))}")
        return dataset.prompts
    display.note(
        f"fixed_prompt_a.txt and fixed_prompt_b.txt are not used: {model.family} reads no text and learns the domains "
        f"{' and '.join(dataset.domains)} instead"
    )
    return dataset.domains


def _batches(
    dataset: UnpairedDataset, data: DataConfig, size: int, batch_size: int, accumulate: int, seed: int, team: Team
) -> UnpairedBatches:
    team.demand_shares(batch_size)
    return UnpairedBatches(
        dataset.train,
        batch_size * accumulate,
        size,
        load_size=data.load_size,
        flip=data.flip,
        seed=seed,
        most_bad=data.most_bad,
        share=(team.number, team.size),
    )


def _validation(dataset: UnpairedDataset, size: int) -> tuple[Tensor, Tensor]:
    """The held-out pictures of both domains that can be read."""
    parts = [stack(pictures, size, VALIDATION) for pictures in dataset.validation or ()]
    if min(map(len, parts), default=0) < 2:
        raise DataError(
            f"of the validation images {' and '.join(str(len(part)) for part in parts)} of the two domains can be read",
            expected="at least 2 of each domain",
            hint="`cyclevar data check` names the bad ones",
        )
    return parts[0], parts[1]


def _picture_size(model: PictureModel, data: DataConfig) -> int:
    """The side of the training pictures: the one that the model is made for."""
    height, width = model.image_size
    if height != width or data.size not in (None, height):
        raise ConfigError(f"data.size is {data.size}", expected=f"{height}, the side that this model is made for")
    return height


@contextlib.contextmanager
def _nothing_left(folder: RunFolder, team: Team, *, resume: bool) -> Iterator[None]:
    """Where memory runs out in a new run before it is saved, remove its folder: there is nothing to go on with."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error) and team.leads and not resume and not folder.saved():
            shutil.rmtree(folder.path)
        raise


@contextlib.contextmanager
def _bad_pictures(dataset: UnpairedDataset, folder: RunFolder, display: Display, team: Team) -> Iterator[None]:
    """At the end, however it comes, say which pictures could not be read; the run folder keeps the whole list."""
    others = ALONE
    try:
        yield
        others = team  # after an error they may be gone
    finally:
        bad = {
            f"{domain}/{name}": reason
            for part in (dataset.train, dataset.validation or ())
            for domain, pictures in zip(dataset.domains, part, strict=False)
            for name, reason in pictures.bad.items()
        }
        bad = others.collect(bad)
        if bad and team.leads:
            with contextlib.suppress(CheckpointError):  # a full disk has been told already
                save_text(folder.bad_pictures, "".join(f"{shown(name)}\t{bad[name]}\n" for name in sorted(bad)))
            listed = ", ".join(map(shown, sorted(bad)[:8])) + (f" and {len(bad) - 8} more" if len(bad) > 8 else "")
            display.note(f"{len(bad)} pictures could not be read and were left out: {listed}")
