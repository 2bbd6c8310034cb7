"""From what a user asked for to complete settings and a run folder. Torch-free, so that mistakes are found at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from cyclevar.core.config.base import merged, validate
from cyclevar.core.config.families import DirectConfig, ModelConfig
from cyclevar.core.config.files import apply_overrides, load_yaml
from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.config.loop import DataConfig
from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import RECIPES, TrainConfig
from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.weights.published import is_published

Config = TypeVar("Config", TrainConfig, PretrainConfig)

RUNS = Path("runs")
"""Where runs go that are given no folder."""

CONFIG, CHECKPOINTS = "config.yaml", "checkpoints/step-*.safetensors"


@dataclass(frozen=True)
class Prepared(Generic[Config]):
    """What to run: complete settings, the run folder, and whether the run that is there goes on."""

    config: Config
    out: Path
    resume: bool
    numbered: bool = False
    """Whether ``out`` is a free name that was chosen here: if it is taken meanwhile, the next one serves."""


def prepare(
    kind: type[Config],
    options: Mapping[str, Any],
    *,
    file: Path | None = None,
    overrides: Iterable[str] = (),
    out: Path | None = None,
    resume: str | None = None,
    root: Path = RUNS,
) -> Prepared[Config]:
    """Settle settings and run folder; nothing is written.

    Settings, each going before the ones it follows: the defaults (of a run that goes on: its own settings), the YAML
    ``file``, ``options`` (dotted name -> value, None for not given), ``overrides`` (``a.b=c``).

    ``resume``: a run folder, or ``auto`` for ``out`` or else the newest run with checkpoints of the same backbone,
    preset and stage (and data, where ``options`` name them); where ``auto`` finds none, a new run begins.

    Raises:
        ConfigError: a setting is wrong, ``resume`` names no run, or contradicts ``out``.
        UnknownNameError: no backbone, preset or discriminator has this name.
    """
    overrides = list(overrides)
    config = assemble(kind, None, file, options, overrides)
    _check_names(config)
    found = _run_to_resume(config, options, out, resume, root)
    if found is not None:
        config = assemble(kind, found / CONFIG, file, options, overrides)
        return Prepared(config, found, resume=True)
    return Prepared(config, out or _new_folder(root, _name(config)), resume=False, numbered=out is None)


def assemble(
    kind: type[Config], stored: Path | None, file: Path | None, options: Mapping[str, Any], overrides: Iterable[str]
) -> Config:
    """The settings that `prepare` describes. Raises `ConfigError` naming the first wrong one."""
    data: dict[str, Any] = {}
    for path in (stored, file):
        data = merged(data, load_yaml(path)) if path else data
    for dotted, value in options.items():
        if value is not None:
            *sections, last = dotted.split(".")
            for section in reversed(sections):
                last, value = section, {last: value}
            data = merged(data, {last: value})
    overrides = list(overrides)
    given = apply_overrides(data, overrides)
    begin = kind().model_dump(mode="json") | name_model(given)
    if kind is TrainConfig:
        family = _families(kind).get(str(given.get("backbone", begin["backbone"])))
        begin = merged(begin, family.training() if family else {})
        begin = merged(begin, RECIPES.get(str(given.get("recipe")), {}))
    return validate(kind, apply_overrides(merged(begin, data), overrides))


def name_model(given: Mapping[str, Any]) -> dict[str, str]:
    """Return backbone and preset of published weights that are given by name, as ``var/d16``.

    Raises `ConfigError` if another backbone or preset is given beside them.
    """
    name = given.get("weights")
    if not isinstance(name, str) or name.count("/") != 1 or Path(name).exists() or not is_published(name):
        return {}
    found = dict(zip(("backbone", "preset"), name.split("/"), strict=True))
    for setting, value in found.items():
        if given.get(setting, value) != value:
            raise ConfigError(
                f"{setting} is {given[setting]}, but weights is {name}",
                expected=f"{setting} {value}",
                hint="leave out one of the two",
            )
    return found


def _families(kind: type[TrainConfig] | type[PretrainConfig]) -> Mapping[str, type[ModelConfig]]:
    """Settings classes by name of all that can be trained: families with tokens and, to translate, generators."""
    registry, found = get_manager().registry, dict[str, type[ModelConfig]]()
    for part in ("backbone", "generator") if kind is TrainConfig else ("backbone",):
        for name in registry.names(part):
            config = registry.get(part, name).load_config()
            assert isinstance(config, type)
            assert issubclass(config, ModelConfig)
            found[name] = config
    return found


def _check_names(config: TrainConfig | PretrainConfig) -> None:
    """Look up the parts by name and check their settings, before anything heavy is imported."""
    registry, families = get_manager().registry, _families(type(config))
    if config.backbone not in families:
        raise UnknownNameError("backbone", config.backbone, families, hint="`cyclevar plugins` lists every part")
    family = families[config.backbone]
    if config.preset not in family.presets():
        raise UnknownNameError(f"preset of {config.backbone}", config.preset, family.presets())
    if isinstance(config, TrainConfig):
        if issubclass(family, DirectConfig):
            _refuse_tokens(config)
        settings_class = registry.get("discriminator", config.discriminator.name).load_config()
        if settings_class:
            validate(settings_class, config.discriminator.settings)
        for name in {*config.loss.terms("cycle"), *config.loss.terms("identity"), *config.loss.settings}:
            loss_class = registry.get("loss", name).load_config()
            if loss_class:
                validate(loss_class, config.loss.settings.get(name, {}))
    else:
        registry.get("discriminator", config.tokenizer.discriminator)


def _refuse_tokens(config: TrainConfig) -> None:
    """Raise `ConfigError` for a setting that says something of tokens or of a backbone, where there are none."""
    idle = {
        "warmup.steps": config.warmup.steps,
        "lora.rank": config.lora.rank,
        "gradient_checkpointing": config.gradient_checkpointing,
        "translation": "" if config.translation == TranslationConfig() else "changed",
    }
    for setting, value in idle.items():
        if value:
            raise ConfigError(
                f"{setting} is {value}, but {config.backbone} has no tokens and no backbone",
                expected=f"{setting} left alone",
            )


def _run_to_resume(
    config: TrainConfig | PretrainConfig, options: Mapping[str, Any], out: Path | None, resume: str | None, root: Path
) -> Path | None:
    if resume is None:
        return None
    if resume != "auto":
        path = Path(resume)
        if not (path / CONFIG).is_file():
            raise ConfigError(
                f"there is no run in {path}", expected=f"a folder with {CONFIG}", hint="or `--resume auto`"
            )
        if out is not None and out.resolve() != path.resolve():
            raise ConfigError(f"--resume names {path} but --out names {out}", hint="leave out one of the two")
        return path
    if out is not None:
        return out if (out / CONFIG).is_file() else None
    wanted = {"backbone": config.backbone, "preset": config.preset, "stage": getattr(config, "stage", None)}
    data = {key: value for key, value in options.items() if key.startswith("data.") and value is not None}
    candidates = [
        (max(path.stat().st_mtime for path in checkpoints), run)
        for run in sorted(root.glob("*"))
        if (checkpoints := list(run.glob(CHECKPOINTS))) and _matches(run / CONFIG, wanted, data)
    ]
    return max(candidates)[1] if candidates else None


def _matches(file: Path, wanted: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    try:
        stored = load_yaml(file)
    except ConfigError:
        return False
    section = stored.get("data") or {}
    return all(stored.get(key) == value for key, value in wanted.items()) and all(
        section.get(key.removeprefix("data.")) == value for key, value in data.items()
    )


def _name(config: TrainConfig | PretrainConfig) -> str:
    """Backbone, preset, pictures and, for pre-training, the stage."""
    parts = [config.backbone, config.preset, _pictures(config.data)]
    return "-".join([*parts, config.stage] if isinstance(config, PretrainConfig) else parts)


def _pictures(data: DataConfig) -> str:
    if data.source == "emoji" and data.other is None:
        return "emoji"
    names = [Path(path).resolve().name for path in (data.source, data.other) if path is not None]
    return re.sub(r"[^\w.-]+", "_", "-".join(names))


def next_folder(taken: Path) -> Path:
    """Return the folder to use instead of one that `prepare` chose, if that is taken."""
    return _new_folder(taken.parent, re.sub(r"-\d+$", "", taken.name))


def _new_folder(root: Path, name: str) -> Path:
    """The first of ``name-1``, ``name-2``, ... after all that are there."""
    numbers = [int(found[1]) for path in root.glob(f"{name}-*") if (found := re.fullmatch(r".*-(\d+)", path.name))]
    return root / f"{name}-{max(numbers, default=0) + 1}"
