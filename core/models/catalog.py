"""Every family and preset: how large it is, what it can be told, where its weights are; and opening one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclevar.core.config.families import FamilyConfig, Measures, PublishedFile
from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.weights.hub import Found, locate
from cyclevar.core.weights.published import family_config, is_published, published_files, require
from cyclevar.core.weights.shipped import WEIGHTS, shipped_translators, shipped_weights

if TYPE_CHECKING:
    from cyclevar.core.models.model import Model

PICKLED = (".pth", ".pt", ".ckpt", ".bin")
DEFAULT_FAMILY, DEFAULT_PRESET = "var", "tiny"


@dataclass(frozen=True)
class Listed:
    """A preset. ``size``: height and width of its pictures; ``files``: what was published for it, and where it lies."""

    family: str
    preset: str
    measures: Measures
    size: tuple[int, int]
    schedule: str
    conditions: str
    shipped: Path | None
    files: Mapping[PublishedFile, Found | None]

    @property
    def name(self) -> str:
        """What `open_model` knows it by."""
        return f"{self.family}/{self.preset}"

    @property
    def ready(self) -> bool:
        """Whether weights of both parts are on this disk."""
        return self.shipped is not None or (bool(self.files) and None not in self.files.values())


def list_models() -> list[Listed]:
    """All presets of all families. Builds nothing and imports no torch where a family tells its `measures`."""
    return [
        _listed(family, preset, config)
        for family in get_manager().registry.names("backbone")
        for preset, config in family_config(family).presets().items()
    ]


def _listed(family: str, preset: str, config: FamilyConfig) -> Listed:
    measures = config.measures().get(preset) or measure(family, preset)
    height, width = config.parse_schedule(config.schedule).full
    return Listed(
        family,
        preset,
        measures,
        (height * measures.stride, width * measures.stride),
        config.schedule,
        config.conditions(),
        shipped_weights(family, preset),
        {file: locate(file) for file in config.published() if preset in file.presets},
    )


def measure(family: str, preset: str) -> Measures:
    """How large a preset is, found by building it without memory."""
    from cyclevar.core.models.model import build

    model = build(family, preset, initialize=False)
    tokenizer, backbone = (
        sum(parameter.numel() for parameter in part.parameters()) for part in (model.tokenizer, model.backbone)
    )
    return Measures(tokenizer, backbone, model.tokenizer.stride)


def open_model(
    family: str | None = None,
    preset: str | None = None,
    *,
    weights: str | Path | None = None,
    tokenizer_weights: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Model:
    """A model with trained weights; ``var``, ``tiny`` where nothing is said.

    ``weights``: a model file of cyclevar, the run that made it or a translator, which bring their own settings; a
    preset whose published files are on this disk (``var/d16``); or beside ``tokenizer_weights`` the published
    transformer of ``family`` and ``preset``, as that is the published tokenizer. None: what ships with the preset, or
    its published files. ``changes`` to the preset, by section, go with published files alone.

    Raises `CheckpointError` for files that are missing or do not fit, `ConfigError` for choices that contradict.
    """
    from cyclevar.core.models.model import build

    wanted = family or DEFAULT_FAMILY, preset or DEFAULT_PRESET
    family_config(wanted[0])  # a mistyped family before everything else
    if tokenizer_weights is None and weights is None:
        presets = family_config(wanted[0]).presets()
        if wanted[1] not in presets:
            raise UnknownNameError(f"preset of {wanted[0]}", wanted[1], presets)
        shipped = shipped_weights(*wanted)
        if shipped:
            return _load(shipped, family, changes, sampling=presets[wanted[1]].sampling.model_dump())
        weights = "/".join(wanted)
    elif tokenizer_weights is None and (Path(str(weights)).exists() or not is_published(str(weights))):
        path = shipped_translators().get(str(weights), Path(str(weights)))
        return _load(path / WEIGHTS if path.is_dir() else path, family, changes)
    elif weights is None:
        raise ConfigError(
            "published weights are given for one part only",
            expected="the weights of a transformer beside those of the tokenizer",
        )
    if tokenizer_weights is None:
        name = str(weights)
        tokenizer_weights, weights = (published_part(name, part) for part in ("tokenizer", "backbone"))
        wanted = (name.partition("/")[0], name.partition("/")[2])
    return build(*wanted, initialize=False, **(changes or {})).load_official(tokenizer_weights, weights)


def _load(path: Path, family: str | None, changes: Mapping[str, Any] | None, **sampling: Any) -> Model:
    """A model file, which must not contradict what else is said."""
    from cyclevar.core.models.model import load_model

    if changes:
        raise ConfigError(
            f"the settings under model ({', '.join(changes)}) are given beside {path}, which brings its own",
            hint="leave out one of the two",
        )
    if path.suffix in PICKLED and path.is_file():
        raise ConfigError(
            f"{path} is no model file of cyclevar",
            expected="the published tokenizer and transformer together, where it is one of them",
            hint="give --tokenizer-weights FILE and --weights FILE, with their --backbone and --preset",
        )
    model = load_model(path, **sampling)
    if family not in (None, model.family):
        raise ConfigError(f"{path} belongs to the backbone {model.family}", expected=str(family))
    return model


def published_part(name: str, part: str) -> Path:
    """Where the published file with one part of the preset ``name`` lies."""
    if not is_published(name):
        raise ConfigError(
            f"no weights ship with {name}, and none were published for it",
            expected="weights of your own",
            hint="`cyclevar pretrain` makes them from your own pictures",
        )
    files = published_files(name)
    found = [file for file in files if file.part == part]
    if not found:
        raise ConfigError(f"{name} is a {files[0].part} alone", expected="a preset, or the other part's weights too")
    return require(found[0], name)
