"""A run folder (`cyclevar.core.report.files`): settings, metrics, sample pictures and checkpoints of one training."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn
from torch.optim import Optimizer

from cyclevar.core.checkpoints import load_metadata, load_tensors, save_tensors, save_text
from cyclevar.core.errors import CheckpointError, ConfigError
from cyclevar.core.report.files import RunFiles, read_lines
from cyclevar.core.settings import Settings, flat, load_yaml

_log = logging.getLogger(__name__)

Parts = Mapping[str, nn.Module | Optimizer]
"""What a training state consists of, besides the random state."""

Facts = Mapping[str, str]
"""What decides the outcome of a training besides its settings, such as the fingerprint of the pictures."""


class Best(NamedTuple):
    """Which state did best on the validation pictures; a lower score is better."""

    step: int
    score: float


class RunFolder(RunFiles):
    """Reads and writes one run folder. `check` it first, `begin` when everything else is ready."""

    def check(
        self, config: Settings, facts: Facts | None = None, *, resume: bool, free: frozenset[str] = frozenset()
    ) -> None:
        """Raise `ConfigError` unless a run with these settings may begin here, or go on with ``resume``.

        That is so in a folder that is new or empty, and with ``resume`` in that of a run with equal settings and facts;
        settings (dotted) in ``free`` may differ. Writes nothing.
        """
        if not self.config.exists():
            if self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir())):
                raise ConfigError(f"{self.path} exists and is not a run", hint="choose another folder with --out")
            return
        if not resume:
            raise ConfigError(
                f"{self.path} already holds a run",
                hint="go on with it by --resume auto, or choose another folder with --out",
            )
        now = flat(config.model_dump(mode="json"))
        before = flat(type(config)().model_dump(mode="json")) | flat(load_yaml(self.config))
        self._refuse("settings differ", before, {k: now.get(k) for k in before.keys() | now.keys() if k not in free})
        if facts is not None and self.facts.exists():
            self._refuse("circumstances differ", load_yaml(self.facts), facts)

    def _refuse(self, what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        changed = [key for key in sorted(now) if now[key] != before.get(key)]
        if changed:
            shown = ", ".join(f"{key} was {before.get(key)!r}, is {now[key]!r}" for key in changed[:4])
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise ConfigError(
                f"the {what} from those of the run in {self.path}: {shown}{more}",
                expected="the same, so that the run goes on as if it had never stopped",
                hint="choose another folder with --out for a new run",
            )

    def begin(self, config: Settings, facts: Facts, machine: Mapping[str, str] | None = None) -> None:
        """Make the folder, or bring the settings of the one that is there up to date; note when and on what machine."""
        save_text(self.config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        save_text(self.facts, yaml.safe_dump(dict(facts), sort_keys=False))
        self.samples.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        saved = self.saved()
        step = int(saved[-1].stem.removeprefix("step-")) if saved else 0
        _append(self.starts, {"step": step, "time": now, "machine": dict(machine or {})})

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line to the metrics."""
        _append(self.metrics, values)

    def rewind_log(self, step: int) -> None:
        """Drop the metrics of steps after ``step``, which a resumed run makes anew."""
        if self.metrics.exists():
            lines, _ = read_lines(self.metrics)
            save_text(self.metrics, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step))

    def save(self, step: int, parts: Parts, *, keep: int) -> None:
        """Write the training state after ``step`` updates; all but the newest ``keep`` states go."""
        save_tensors(self.checkpoints / f"step-{step:08d}.safetensors", pack_state(parts), {"step": step})
        for old in self.saved()[:-keep]:
            old.unlink()

    def restore(self, parts: Parts) -> int:
        """Load the newest whole state into ``parts``; the number of updates made, 0 where nothing was saved.

        A damaged file is put aside as ``*.damaged``. Raises `CheckpointError` where all are damaged, or where a state
        does not fit ``parts``.
        """
        saved = self.saved()
        for path in reversed(saved):
            try:
                tensors, metadata = load_tensors(path)
                step = int(metadata["step"])
            except (CheckpointError, KeyError) as error:
                _log.warning("%s is damaged; going on with the checkpoint before it (%s)", path, error)
                path.replace(path.with_suffix(".damaged"))
                continue
            unpack_state(parts, tensors, what=str(path))
            return step
        if saved:
            raise CheckpointError(f"no checkpoint in {self.checkpoints} can be read", hint="start a new run with --out")
        return 0

    def save_best(self, step: int, score: float, parts: Parts) -> None:
        """Write ``parts`` beside the checkpoints, in place of what was best before."""
        save_tensors(self.best_state, pack_state(parts), {"step": step, "score": score})

    def best(self) -> Best | None:
        """What `save_best` wrote last; None where there is nothing, or, with a warning, where it is damaged."""
        if not self.best_state.exists():
            return None
        try:
            metadata = load_metadata(self.best_state)
            return Best(int(metadata["step"]), float(metadata["score"]))
        except (CheckpointError, KeyError, ValueError) as error:
            _log.warning("%s is damaged and is not used (%s)", self.best_state, error)
            return None

    def restore_best(self, parts: Parts) -> None:
        """Load what `save_best` wrote. Raises `CheckpointError` where it is missing, damaged or does not fit."""
        unpack_state(parts, load_tensors(self.best_state)[0], what=str(self.best_state))

    def saved(self) -> list[Path]:
        """The checkpoints, oldest first; the best state is none of them."""
        return sorted(self.checkpoints.glob("step-*.safetensors"))


def _append(path: Path, values: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(values)) + "\n")


def pack_state(parts: Parts) -> dict[str, Tensor]:
    """All tensors of modules and optimizers, and the random state, under slash-separated names."""
    tensors = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            tensors |= {f"{name}/{key}": value for key, value in part.state_dict().items()}
        else:
            for index, state in part.state_dict()["state"].items():
                tensors |= {f"{name}/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
    return tensors


def unpack_state(parts: Parts, tensors: Mapping[str, Tensor], *, what: str) -> None:
    """The inverse of `pack_state`. Learning rates and the like come from the settings, not from the file."""
    for name, part in parts.items():
        own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
        try:
            if isinstance(part, nn.Module):
                part.load_state_dict(own)
            else:
                state: dict[int, dict[str, Tensor]] = {}
                for key, value in own.items():
                    index, field = key.split("/")
                    state.setdefault(int(index), {})[field] = value
                part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()
            raise CheckpointError(
                f"{what} does not fit this run in its part {name!r} ({' '.join(reason[:3])})",
                hint="resume with the settings of that run, or start a new one with --out",
            ) from error
    torch.set_rng_state(tensors["random/cpu"])
    if "random/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random/cuda"])
