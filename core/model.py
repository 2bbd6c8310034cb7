"""A family's model: tokenizer and backbone over one schedule, with their weights in and out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cyclevar.core.checkpoints import load_published, load_tensors, save_tensors
from cyclevar.core.config import FamilyConfig
from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.interfaces import Backbone, Tokenizer
from cyclevar.core.manager import get_manager
from cyclevar.core.names import NameTable, check_keys
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.core.settings import Settings, validate


@dataclass(frozen=True)
class OfficialFormat:
    """How a family's published files name their tensors, and under which keys training checkpoints nest them."""

    tokenizer: NameTable
    backbone: NameTable
    wrappers: Sequence[Sequence[str]] = ()


class Model(nn.Module):
    """Tokenizer and backbone of one ``family``, made for ``schedule``; ``config`` rebuilds it."""

    def __init__(
        self,
        family: str,
        config: Settings,
        tokenizer: Tokenizer,
        backbone: Backbone,
        schedule: ScaleSchedule,
        official: OfficialFormat | None = None,
    ) -> None:
        super().__init__()
        self.family, self._config, self.schedule, self.official = family, config, schedule, official
        self.tokenizer, self.backbone = tokenizer, backbone

    @property
    def config(self) -> Settings:
        """The settings of the family, with the domains that were added since."""
        return self._config.model_copy(update={"tokenizer": self.tokenizer.config, "backbone": self.backbone.config})

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the pictures that the schedule is made for."""
        height, width = self.schedule.full
        return height * self.tokenizer.stride, width * self.tokenizer.stride

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def load_official(
        self,
        tokenizer: str | Path | Mapping[str, Tensor] | None = None,
        backbone: str | Path | Mapping[str, Tensor] | None = None,
    ) -> Model:
        """Load published weights: files (``.pth``, ``.safetensors``) or state dicts in the published names.

        Raises `CheckpointError` naming the keys that are missing, unknown or of another shape.
        """
        for part, source in (("tokenizer", tokenizer), ("backbone", backbone)):
            if source is None:
                continue
            table, module = self._table(part), self.get_submodule(part)
            if isinstance(source, Mapping):
                state, what = source, f"the given {part} state dict"
            else:
                assert self.official is not None
                state, what = load_published(Path(source), self.official.wrappers), str(source)
            own = module.state_dict()
            missing, _ = module.load_state_dict(table.to_ours(state, own, what=what), strict=False, assign=False)
            unnamed = [name for name in missing if name in table.names]
            assert not unnamed, unnamed
        return self

    def export_official(self) -> dict[str, dict[str, Tensor]]:
        """State dicts in the published names, by part: ``tokenizer`` and ``backbone``.

        Rows of added domains have no place in the published format and are left out.
        """
        return {
            part: self._table(part).to_published(self.get_submodule(part).state_dict())
            for part in ("tokenizer", "backbone")
        }

    def _table(self, part: str) -> NameTable:
        if self.official is None:
            raise ConfigError(f"the family {self.family} has no published files")
        table: NameTable = getattr(self.official, part)
        return table

    def save(self, path: str | Path, *, half: bool = False, extra: Mapping[str, Any] | None = None) -> None:
        """Write weights and settings to one safetensors file; ``half`` stores float16."""
        state = {n: t.half() if half and t.is_floating_point() else t for n, t in self.state_dict().items()}
        metadata = {"family": self.family, "config": self.config.model_dump(mode="json"), **(extra or {})}
        save_tensors(Path(path), state, metadata)

    def load_state(self, state: Mapping[str, Tensor], *, what: str) -> None:
        """Load our own state dict, any float type. Raises `CheckpointError` naming what does not fit."""
        own = self.state_dict()
        wrong = [
            f"{name} has {list(state[name].shape)}, expected {list(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ]
        check_keys(what, [n for n in own if n not in state], [n for n in state if n not in own], wrong)
        self.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in state.items()})


def build(family: str, config: str | Mapping[str, Any] | Settings = "tiny", **overrides: Any) -> Model:
    """A model of a registered family with fresh weights.

    ``config``: a preset's name, or settings (sections ``tokenizer``, ``backbone``, ``schedule``); ``overrides`` change
    them section by section. Raises `UnknownNameError` for an unknown family or preset, `ConfigError` for a bad setting.
    """
    manager = get_manager()
    entry = manager.registry.get("backbone", family)
    config_class = entry.load_config()
    assert isinstance(config_class, type)
    assert issubclass(config_class, FamilyConfig)
    if isinstance(config, str):
        presets = config_class.presets()
        if config not in presets:
            raise UnknownNameError(f"preset of {family}", config, presets)
        config = presets[config]
    data = config.model_dump() if isinstance(config, Settings) else dict(config)
    for key, value in overrides.items():
        data[key] = {**data.get(key, {}), **value} if isinstance(value, Mapping) else value
    settings = validate(config_class, data)
    model = manager.fold("cyclevar_model_built", entry.load()(settings), config=settings)
    assert isinstance(model, Model)
    return model


def load_model(path: str | Path) -> Model:
    """A model that `Model.save` wrote."""
    state, metadata = load_tensors(Path(path))
    if "family" not in metadata or "config" not in metadata:
        raise CheckpointError(
            f"{path} does not say which family it belongs to",
            expected="a model file that cyclevar wrote",
            hint="published files are loaded with Model.load_official",
        )
    with frozen_random():
        model = build(metadata["family"], metadata["config"])
    model.load_state(state, what=str(path))
    return model


@contextlib.contextmanager
def frozen_random() -> Iterator[None]:
    """Leave the global random state as it was; fresh weights that are overwritten at once must not advance it."""
    with torch.random.fork_rng(devices=[]):
        yield
