"""A run folder (`report.run_files`): settings, metrics, sample pictures and checkpoints of one training."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from cyclevar.core.config.base import Settings, flat
from cyclevar.core.config.files import dump_yaml, load_yaml
from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.report.run_files import RunFiles, is_regular, read_lines
from cyclevar.core.runtime.files import save_text
from cyclevar.core.runtime.locks import LOCK
from cyclevar.core.training.checkpoint_manifest import Manifest
from cyclevar.core.training.state import Facts, Parts, pack_state, unpack_state
from cyclevar.core.training.state_check import (
    check_finite,
    check_metadata,
    check_random,
    list_moments,
    read_score,
    read_step,
)
from cyclevar.core.weights.checkpoints import load_metadata, load_tensors, save_tensors

_log = logging.getLogger(__name__)


FACTS = ("data", "perceptual_distance", "feature_net", "tokenizer", "backbone", "discriminator")
"""What facts there may be."""

OTHERS_WRITE, YOUNG = (".report.html", ".evaluation.json"), 600
"""Beginnings of temporary names that other commands use in a run folder, and for how many seconds they stay."""

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
        if not is_regular(self.config):
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
        others = _changes(self._read_facts(), facts) if facts is not None and self.facts.exists() else {}
        self._refuse("circumstances differ", others, allowed)
        return settings | {f"facts.{key}": value for key, value in others.items()}

    def _read_facts(self) -> Facts:
        if not is_regular(self.facts):
            raise ConfigError(f"{self.facts} is not a file", hint="remove it, or start a new run with --out")
        return load_yaml(self.facts, texts=True)

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
        save_text(self.config, dump_yaml(config.model_dump(mode="json")))
        save_text(self.facts, dump_yaml(facts))
        self.samples.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        self.clean()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        saved = self.saved()
        start = {"step": step_of(saved[-1]) if saved else 0, "time": now, "machine": dict(machine or {})}
        _append(self.starts, start | ({"changed": dict(changes)} if changes else {}))

    def clean(self) -> None:
        """Remove the temporary files of processes that were killed. Call it only with the folder locked.

        What commands beside a training write (`OTHERS_WRITE`) may be in the making, and stays while it is young.
        """
        for folder in (self.path, *(path for path in self.path.rglob("*") if path.is_dir())):
            for path in _unfinished(folder):
                with contextlib.suppress(FileNotFoundError):
                    young = time.time() - path.stat().st_mtime < YOUNG
                    if not (young and path.name.startswith(OTHERS_WRITE)):
                        path.unlink()

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line to the metrics."""
        if self.writes:
            _append(self.metrics, values)

    def rewind(self, step: int) -> None:
        """Drop what was logged after ``step``, and the best states of later steps: a resumed run makes them anew."""
        self.rewind_log(step)
        if self.writes:
            self._rewind_best(step)

    def rewind_log(self, step: int) -> None:
        """Drop the metrics of steps after ``step``, which a resumed run makes anew."""
        if self.writes and self.metrics.exists():
            lines, _ = read_lines(self.metrics)
            save_text(self.metrics, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step))

    def save(self, step: int, parts: Parts, *, keep: int, position: Mapping[str, Any] | None = None) -> None:
        """Write the training state after ``step`` updates and note it; all but the newest ``keep`` states go.

        ``position`` is what `position` returns of this step: ``due``, what is due and not made yet, and ``meter``.
        """
        path, tensors = self._checkpoint(step), pack_state(parts)
        if not self.writes:
            return
        self.manifest.forget(path)
        save_tensors(path, tensors, {"step": step, "moments": list_moments(parts), **(position or {})})
        for old in self.saved()[:-keep]:
            old.unlink()
        self._drop_earlier_best()
        self.manifest.add(path)

    def position(self, step: int) -> Mapping[str, Any]:
        """Return what `save` was given with the checkpoint of ``step``; nothing if there is no such checkpoint."""
        path = self._checkpoint(step)
        return load_metadata(path) if path.exists() else {}

    def _checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:08d}.safetensors"

    def restore(self, parts: Parts) -> int:
        """Load the newest whole state into ``parts``; return the number of updates made, 0 if nothing was saved.

        All of a state is checked before any of it is loaded. A damaged file, a best state too, is put aside as
        ``*.damaged``. Raises `CheckpointError` if all are damaged, or if a state does not fit ``parts``.
        """
        for path in [self.best_state, *self._earlier_best()]:
            if path.exists():
                self._whole(path, "going on without this best state")
        saved, flaw = self.saved(), ""
        for path in reversed(saved):
            found = self._whole(path, "going on with the checkpoint before it")
            if isinstance(found, str):
                flaw = flaw or found
                continue
            unpack_state(parts, found, what=str(path))
            return step_of(path)
        if saved:
            raise CheckpointError(
                f"no checkpoint in {self.checkpoints} can be read",
                hint=f"start a new run with --out; the newest is put aside: {flaw}",
            )
        return 0

    def _whole(self, path: Path, instead: str) -> dict[str, Tensor] | str:
        """Return what a state holds. If it is damaged: warn, put it aside and return what is wrong."""
        try:
            if flaw := self.manifest.flaw(path):
                raise CheckpointError(flaw)
            tensors, metadata = load_tensors(path)
            if path in (self.best_state, *self._earlier_best()):
                read_step(metadata)
                read_score(metadata)
            else:
                check_metadata(metadata, tensors, step_of(path))
            check_random(tensors)
            check_finite(tensors)
            return tensors
        except CheckpointError as error:
            _log.warning("%s is damaged; %s (%s)", path, instead, error)
            path.replace(path.with_suffix(".damaged"))
            return str(error)

    def save_best(self, step: int, score: float, parts: Parts) -> None:
        """Write ``parts`` beside the checkpoints, as the best state.

        The one before is kept as ``best-NNNNNNNN`` as long as the run may be resumed from a step before this one.
        """
        tensors = pack_state(parts)
        if not self.writes:
            return
        before = self.best()
        if before is not None and before.step < step:
            self.manifest.rename(self.best_state, self.checkpoints / f"best-{before.step:08d}.safetensors")
        self.manifest.forget(self.best_state)
        save_tensors(self.best_state, tensors, {"step": step, "score": score})
        self.manifest.add(self.best_state)

    def best(self) -> Best | None:
        """Return what `save_best` wrote last; None if there is nothing or, with a warning, if it is damaged."""
        return _read_best(self.best_state) if self.best_state.exists() else None

    def _earlier_best(self) -> list[Path]:
        """Return the states that were best before, oldest first."""
        found = [path for path in self.checkpoints.glob("best-*.safetensors") if re.fullmatch(r"best-\d+", path.stem)]
        return sorted(found, key=step_of)

    def _rewind_best(self, step: int) -> None:
        """Make the best state of steps up to ``step`` the best one, and remove those of later steps."""
        self.manifest.finish()
        best = self.best()
        if best is not None and best.step <= step:
            return
        self.best_state.unlink(missing_ok=True)
        for path in reversed(self._earlier_best()):
            if step_of(path) <= step and _read_best(path) is not None:
                self.manifest.rename(path, self.best_state)
                return
            path.unlink()

    def _drop_earlier_best(self) -> None:
        """Remove earlier best states that no kept checkpoint goes back to."""
        oldest, best = step_of(self.saved()[0]), self.best()
        earlier = self._earlier_best()
        if best is not None and best.step <= oldest:
            needless = earlier
        else:
            needless = [path for path in earlier if step_of(path) <= oldest][:-1]
        for path in needless:
            path.unlink()

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
    return int(checkpoint.stem.rpartition("-")[2])


def _read_best(path: Path) -> Best | None:
    """Return step and score of a best state; None, with a warning, if it is damaged."""
    try:
        metadata = load_metadata(path)
        return Best(read_step(metadata), read_score(metadata))
    except CheckpointError as error:
        _log.warning("%s is damaged and is not used (%s)", path, error)
        return None


def _is_whole(path: Path) -> bool:
    """Return whether a file is more than a lock, or what a process that was killed had begun to write."""
    return not (path.name == LOCK or path in _unfinished(path.parent))


def _unfinished(folder: Path) -> list[Path]:
    """Return the temporary files in a folder, ours and those of the safetensors writer."""
    return [path for pattern in (".*.partial", ".tmp*") for path in folder.glob(pattern) if path.is_file()]


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
