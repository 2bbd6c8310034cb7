"""A run as its folder tells it: settings, figures, sample sheets, evaluation, machine."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclevar.core.config.base import flat
from cyclevar.core.config.files import apply_overrides, load_yaml
from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.report.run_files import RunFiles, is_regular, parse_json, read_lines, read_text

LARGEST = 1e30
"""Figures beyond this number are not drawn, and those below one by it are 0."""

Curve = list[tuple[int, float]]
"""Steps and values, in the order of the log."""


@dataclass(frozen=True)
class Record:
    """What a run folder holds. Settings are by dotted name; ``default`` are those of the command that made the run.

    ``notes``: what could not be read, a sentence each.
    """

    name: str
    path: Path
    command: str
    settings: Mapping[str, Any]
    default: Mapping[str, Any]
    facts: Mapping[str, str]
    starts: Sequence[Mapping[str, Any]]
    curves: Mapping[str, Curve]
    sheets: Sequence[tuple[int, Path]]
    evaluation: Mapping[str, Any] | None
    notes: Sequence[str]

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return max((curve[-1][0] for curve in self.curves.values()), default=0)

    @property
    def steps(self) -> int | None:
        """The updates that were asked for."""
        section = {"tokenizer": "tokenizer.", "backbone": "transformer."}.get(self.stage, "")
        found = self.settings.get(f"{section}loop.steps")
        return found if type(found) is int else None

    @property
    def stage(self) -> str:
        """What was trained: tokenizer or backbone; ``train`` for a translator."""
        found = self.settings.get("stage")
        return found if found in ("tokenizer", "backbone") else "train"

    @property
    def machine(self) -> Mapping[str, str]:
        """What the run was last started on."""
        found = self.starts[-1].get("machine") if self.starts else None
        return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}

    def changed(self, name: str) -> bool:
        """Whether a setting is not the default."""
        return self.settings.get(name) != self.default.get(name)

    @property
    def reproduction(self) -> str:
        """The command that trains the same again, on its own: all settings that are not the default, one by one."""
        words = ["cyclevar", self.command]
        for name, value in self.settings.items():
            if self.changed(name) and name != "recipe":  # its settings stand here one by one
                words += ["--set", f"{name}={_as_yaml(value)}"]
        words += ["--device", self.machine["device"]] if "device" in self.machine else []
        return shlex.join(words)


def read_run(path: Path) -> Record:
    """Read a run folder; what is missing or damaged there is left out and noted, except for the settings.

    Raises:
        ConfigError: ``path`` is no run, or its settings cannot be read.
    """
    files, notes = RunFiles(path), list[str]()
    if not is_regular(files.config):
        raise ConfigError(f"{path} is not a run", expected=f"a folder with {files.config.name}")
    settings = load_yaml(files.config)
    kind = PretrainConfig if "stage" in settings else TrainConfig
    lines, damaged = read_lines(files.metrics)
    if damaged:
        notes.append(f"{files.metrics.name}: {damaged} damaged {'line' if damaged == 1 else 'lines'} left out.")
    facts: dict[str, str] = {}
    try:
        if files.facts.exists():
            read_text(files.facts)  # no pipe, and of bounded size
            facts = load_yaml(files.facts, texts=True)
    except (ConfigError, OSError, ValueError):
        notes.append(f"{files.facts.name} cannot be read.")
    starts, damaged = read_lines(files.starts)
    if damaged:
        notes.append(f"{files.starts.name}: {damaged} damaged {'line' if damaged == 1 else 'lines'} left out.")
    return Record(
        name=path.resolve().name,
        path=path,
        command="pretrain" if kind is PretrainConfig else "train",
        settings=flat(settings),
        default=flat(kind().model_dump(mode="json")),
        facts=facts,
        starts=[{**start, "time": str(start.get("time", "at an unknown time"))} for start in starts],
        curves=_curves(lines),
        sheets=_sheets(files.samples),
        evaluation=_evaluation(files.evaluation, notes),
        notes=notes,
    )


def find_runs(names: Sequence[str], root: Path) -> list[Path]:
    """The folders of runs that are named by their paths or, where they lie in ``root``, by their names.

    Raises:
        UnknownNameError: there is no such folder; the nearest one is offered.
        ConfigError: a file or a folder that is no run, a run that is named twice, or no name at all.
    """
    known = sorted(config.parent for config in root.glob(f"*/{RunFiles(root).config.name}"))
    if not names:
        there = ", ".join(map(str, known[:8])) or f"none in {root}"
        raise ConfigError("no run is named", expected=f"one or more run folders; there are {there}")
    found: list[Path] = []
    for name in names:
        path = next((path for path in (Path(name), root / name) if _exists(path)), None)
        if path is None:
            near = known if len(Path(name).parts) > 1 else [run.name for run in known]
            beside = [config.parent for config in Path(name).parent.glob("*/config.yaml")]
            if not near and not beside:
                raise ConfigError(f"there is no run {name}", expected="a run folder")
            raise UnknownNameError("run", name, {str(run) for run in [*near, *beside]})
        if not is_regular(RunFiles(path).config):
            raise ConfigError(f"{path} is not a run", expected="a folder with config.yaml")
        if any(path.samefile(other) for other in found):
            raise ConfigError(f"{path} is named twice", hint="name each run once")
        found.append(path)
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """The finite figures of a log by name, those that can be drawn (`LARGEST`)."""
    curves: dict[str, Curve] = {}
    for line in lines:
        for name, value in line.items():
            if name != "step" and type(value) in (int, float) and -LARGEST <= value <= LARGEST:
                curves.setdefault(name, []).append((line["step"], float(value) if abs(value) * LARGEST >= 1 else 0.0))
    return curves


def _sheets(folder: Path) -> list[tuple[int, Path]]:
    found = ((re.fullmatch(r"step-(\d{1,12})", path.stem), path) for path in folder.glob("step-*.png"))
    return sorted((int(match[1]), path) for match, path in found if match and is_regular(path))


def _evaluation(path: Path, notes: list[str]) -> Mapping[str, Any] | None:
    try:
        if not path.exists():
            return None
        found = parse_json(read_text(path))
    except (OSError, ValueError):
        found = None
    if isinstance(found, dict) and isinstance(found.get("directions"), list):
        return found
    notes.append(f"{path.name} is not what `cyclevar evaluate --json` prints.")
    return None


def _as_yaml(value: Any) -> str:
    """A value as ``--set`` reads it: a string as it is where it stays one, the rest as JSON, which YAML includes."""
    plain = isinstance(value, str) and bool(re.fullmatch(r"[\w./@+-]+", value))
    if plain and apply_overrides({}, [f"it={value}"])["it"] == value:
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)
