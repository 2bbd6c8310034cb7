"""A run folder: settings, metrics, sample pictures and checkpoints of one training.

::

    RUN/config.yaml             the settings, complete
    RUN/metrics.jsonl           one JSON object a logged step
    RUN/samples/step-NNNNNNNN.png
    RUN/checkpoints/step-NNNNNNNN.safetensors
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.optim import Optimizer

from cyclevar.core.checkpoints import load_tensors, save_tensors, save_text
from cyclevar.core.errors import CheckpointError, ConfigError
from cyclevar.core.settings import Settings, load_yaml

Parts = Mapping[str, nn.Module | Optimizer]
"""What a training state consists of, besides the random state."""


class RunFolder:
    """Reads and writes one run folder. Create it with `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.metrics = path / "metrics.jsonl"
        self.config = path / "config.yaml"

    @classmethod
    def open(cls, path: Path, config: Settings, *, resume: bool, free: frozenset[str] = frozenset()) -> RunFolder:
        """A new folder, or with ``resume`` the one that is there.

        Raises `ConfigError` when a run is there and is not to be resumed, or was made with other settings; keys
        (dotted) in ``free`` may differ.
        """
        folder = cls(path)
        if folder.config.exists():
            if not resume:
                raise ConfigError(
                    f"{path} already holds a run",
                    hint="go on with it by --resume auto, or choose another folder with --out",
                )
            before, now = _flat(load_yaml(folder.config)), _flat(config.model_dump(mode="json"))
            changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
            refused = [key for key in changed if key not in free]
            if refused:
                shown = ", ".join(f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in refused[:4])
                raise ConfigError(
                    f"the settings differ from those of the run in {path}: {shown}",
                    expected=f"equal settings (only {', '.join(sorted(free))} may change)",
                    hint="choose another folder with --out for a new run",
                )
        elif path.exists() and any(path.iterdir()):
            raise ConfigError(f"{path} exists and is not a run", hint="choose another folder with --out")
        save_text(folder.config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        folder.samples.mkdir(exist_ok=True)
        folder.checkpoints.mkdir(exist_ok=True)
        return folder

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(values)) + "\n")

    def rewind_log(self, step: int) -> None:
        """Drop the metrics of steps after ``step``, which a resumed run makes anew."""
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            save_text(self.metrics, "".join(line + "\n" for line in kept))

    def save(self, step: int, parts: Parts, *, keep: int) -> None:
        """Write the training state after ``step`` updates; all but the newest ``keep`` states go."""
        save_tensors(self.checkpoints / f"step-{step:08d}.safetensors", pack_state(parts), {"step": step})
        for old in self._saved()[:-keep]:
            old.unlink()

    def restore(self, parts: Parts) -> int:
        """Load the newest whole state into ``parts``; the number of updates made, 0 where nothing was saved."""
        for path in reversed(self._saved()):
            try:
                tensors, metadata = load_tensors(path)
            except CheckpointError as error:
                warnings.warn(f"{error} Going on with the one before it.", stacklevel=2)
                continue
            unpack_state(parts, tensors, what=str(path))
            return int(metadata["step"])
        return 0

    def _saved(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step-*.safetensors"))


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


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
