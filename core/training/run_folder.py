"""A run folder (`report.run_files`): settings, metrics, sample pictures and checkpoints of one training."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import Tensor

from cyclevar.core.config.base import Settings, flat
from cyclevar.core.config.files import load_yaml
from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.report.run_files import RunFiles, read_lines
from cyclevar.core.runtime.files import save_text
from cyclevar.core.training.checkpoint_manifest import Manifest
from cyclevar.core.training.state import Facts, Parts, pack_state, unpack_state
from cyclevar.core.weights.checkpoints import load_metadata, load_tensors, save_tensors

_log = logging.getLogger(__name__)


FACTS = ("data", "perceptual_distance", "feature_net", "tokenizer", "backbone", "discriminator")
"""What facts there may be."""

Changes = Mapping[str, tuple[Any, Any]]
"""What a run that goes on changes, dotted name -> before and now."""


class Best(NamedTuple):
    """Which state did best on the validation pictures; a lower score is better."""

    step: int
    score: float


class RunFolder(RunFiles):
    """Reads and writes one run folder. `check` it first, `begin` when everything else is ready.

    Where several processes train together, one of them ``writes``, and for the others nothing is written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.manifest = Manifest(self.checkpoints)
        self.writes = True

    def check(
        self,
        config: Settings,
        facts: Facts | None = None,
        *,
        resume: bool,
        free: Collection[str] = (),
        allowed: Collection[str] | None = (),
    ) -> Changes:
        """Raise `ConfigError` unless a run with these settings may begin here, or go on with ``resume``.

        That is so in a folder that is new or empty, and with ``resume`` in that of a run with equal settings and facts;
        settings (dotted) in ``free`` may differ, and those that the user ``allowed`` to, by their name or that of their
        section, and facts so too; None where the user has no say in it. Returns what differs. Writes nothing.
        """
        self._demand_known(allowed or (), config)
        if not self.config.exists():
            if self.path.exists() and not (self.path.is_dir() and not any(map(_is_whole, self.path.iterdir()))):
                raise ConfigError(f"{self.path} exists and is not a run", hint="choose another folder with --out")
            return {}
        if not resume:
            raise ConfigError(
                f"{self.path} already holds a run",
                hint="go on with it by --resume auto, or choose another folder with --out",
            )
        now = flat(config.model_dump(mode="json"))
        before = flat(type(config)().model_dump(mode="json")) | flat(load_yaml(self.config))
        settings = _changes(before, {key: now.get(key) for key in before.keys() | now.keys()})
        self._refuse("settings differ", {key: value for key, value in settings.items() if key not in free}, allowed)
        others = _changes(load_yaml(self.facts), facts) if facts is not None and self.facts.exists() else {}
        self._refuse("circumstances differ", others, allowed)
        return settings | {f"facts.{key}": value for key, value in others.items()}

    def _demand_known(self, allowed: Collection[str], config: Settings) -> None:
        settings = flat(config.model_dump(mode="json"))
        sections = {key.rsplit(".", depth)[0] for key in settings for depth in range(key.count(".") + 1)}
        for name in allowed:
            if name not in (known := {*sections, *type(config).model_fields, *FACTS}):
                raise UnknownNameError("setting or fact", name, known, hint="--allow-change names what may differ")

    def _refuse(self, what: str, changes: Changes, allowed: Collection[str] | None) -> None:
        found = {key: both for key, both in changes.items() if not _covers(allowed or (), key)}
        if found:
            shown = ", ".join(f"{key} was {before!r}, is {now!r}" for key, (before, now) in list(found.items())[:4])
            more = f" and {len(found) - 4} more" if len(found) > 4 else ""
            names = " ".join(f"--allow-change {key}" for key in list(found)[:4])
            accept = "" if allowed is None else f", or accept the change by {names}"
            raise ConfigError(
                f"the {what} from those of the run in {self.path}: {shown}{more}",
                expected="the same, so that the run goes on as if it had never stopped",
                hint=f"choose another folder with --out for a new run{accept}",
            )

    def begin(
        self, config: Settings, facts: Facts, machine: Mapping[str, str] | None = None, changes: Changes | None = None
    ) -> None:
        """Make the folder, or bring the settings of the one that is there up to date.

        Notes when, on what machine and with what ``changes``. What a process that was killed left half written goes.
        """
        if not self.writes:
            return
        save_text(self.config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        save_text(self.facts, yaml.safe_dump(dict(facts), sort_keys=False))
        self.samples.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        for partial in [*self.path.glob(".*.partial"), *self.path.glob("*/.*.partial")]:
            partial.unlink()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        saved = self.saved()
        start = {"step": step_of(saved[-1]) if saved else 0, "time": now, "machine": dict(machine or {})}
        _append(self.starts, start | ({"changed": dict(changes)} if changes else {}))

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line to the metrics."""
        if self.writes:
            _append(self.metrics, values)

    def rewind_log(self, step: int) -> None:
        """Drop the metrics of steps after ``step``, which a resumed run makes anew."""
        if self.writes and self.metrics.exists():
            lines, _ = read_lines(self.metrics)
            save_text(self.metrics, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step))

    def save(self, step: int, parts: Parts, *, keep: int) -> None:
        """Write the training state after ``step`` updates and note it; all but the newest ``keep`` states go."""
        path, tensors = self.checkpoints / f"step-{step:08d}.safetensors", pack_state(parts)
        if not self.writes:
            return
        self.manifest.forget(path)
        save_tensors(path, tensors, {"step": step})
        for old in self.saved()[:-keep]:
            old.unlink()
        self.manifest.add(path)

    def restore(self, parts: Parts) -> int:
        """Load the newest whole state into ``parts``; the number of updates made, 0 where nothing was saved.

        A damaged file, a best state too, is put aside as ``*.damaged``. Raises `CheckpointError` where all are damaged,
        or where a state does not fit ``parts``.
        """
        if self.best_state.exists():
            self._whole(self.best_state, "going on without a best state")
        saved = self.saved()
        for path in reversed(saved):
            found = self._whole(path, "going on with the checkpoint before it")
            if found is not None:
                tensors, metadata = found
                unpack_state(parts, tensors, what=str(path))
                return int(metadata["step"])
        if saved:
            raise CheckpointError(f"no checkpoint in {self.checkpoints} can be read", hint="start a new run with --out")
        return 0

    def _whole(self, path: Path, instead: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What a state holds; where it is damaged, a warning that ends in ``instead``, and it is put aside."""
        try:
            if flaw := self.manifest.flaw(path):
                raise CheckpointError(flaw)
            tensors, metadata = load_tensors(path)
            int(metadata["step"])
            return tensors, metadata
        except (CheckpointError, KeyError, ValueError, TypeError) as error:
            _log.warning("%s is damaged; %s (%s)", path, instead, error)
            path.replace(path.with_suffix(".damaged"))
            return None

    def save_best(self, step: int, score: float, parts: Parts) -> None:
        """Write ``parts`` beside the checkpoints, in place of what was best before."""
        tensors = pack_state(parts)
        if not self.writes:
            return
        self.manifest.forget(self.best_state)
        save_tensors(self.best_state, tensors, {"step": step, "score": score})
        self.manifest.add(self.best_state)

    def best(self) -> Best | None:
        """What `save_best` wrote last; None where there is nothing, or, with a warning, where it is damaged."""
        if not self.best_state.exists():
            return None
        try:
            metadata = load_metadata(self.best_state)
            return Best(int(metadata["step"]), float(metadata["score"]))
        except (CheckpointError, KeyError, ValueError, TypeError) as error:
            _log.warning("%s is damaged and is not used (%s)", self.best_state, error)
            return None

    def restore_best(self, parts: Parts) -> None:
        """Load what `save_best` wrote. Raises `CheckpointError` where it is missing, damaged or does not fit."""
        if flaw := self.manifest.flaw(self.best_state):
            raise CheckpointError(
                f"{self.best_state} is damaged: {flaw}", hint="resume the run, which then goes on without it"
            )
        unpack_state(parts, load_tensors(self.best_state)[0], what=str(self.best_state))

    def saved(self) -> list[Path]:
        """The checkpoints, oldest first; the best state is none of them."""
        found = [path for path in self.checkpoints.glob("step-*.safetensors") if re.fullmatch(r"step-\d+", path.stem)]
        return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The number of updates that a checkpoint's name tells."""
    return int(checkpoint.stem.removeprefix("step-"))


def _is_whole(path: Path) -> bool:
    """Whether a file is more than what a process that was killed had begun to write."""
    return not (path.name.startswith(".") and path.suffix == ".partial")


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (before.get(key), now[key]) for key in sorted(now) if now[key] != before.get(key)}


def _covers(allowed: Collection[str], name: str) -> bool:
    """Whether a name, or a section that it is in, is among the ``allowed``."""
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


def _append(path: Path, values: Mapping[str, Any]) -> None:
    """Add a line, on a line of its own even where a full disk or a power cut left half of the one before."""
    line = json.dumps(dict(values)).encode() + b"\n"
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
