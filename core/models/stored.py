"""Models as files: save the weights with the settings, and load them, into a model that has no memory yet too."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclevar.core.interfaces.model import PictureModel
from cyclevar.core.weights.checkpoints import check_numbers, save_tensors
from cyclevar.core.weights.name_table import check_keys


class StoredModel(PictureModel):
    """A `PictureModel` that is saved to one file, and filled from a state dict."""

    def save(self, path: str | Path, *, half: bool = False, extra: Mapping[str, Any] | None = None) -> None:
        """Write weights and settings to one safetensors file; ``half`` stores float16."""
        state = {n: t.half() if half and t.is_floating_point() else t for n, t in self.state_dict().items()}
        metadata = {"family": self.family, "config": self.config.model_dump(mode="json"), **(extra or {})}
        save_tensors(Path(path), state, metadata)

    def load_state(self, state: dict[str, Tensor], *, what: str, owned: bool = False) -> None:
        """Load our own state dict, any float type. Raises `CheckpointError` naming what does not fit or is not finite.

        A model that has no memory yet takes over the very tensors of an ``owned`` one, which the caller then forgets.
        """
        own = self.state_dict()
        wrong = [
            f"{name} has {list(state[name].shape)}, expected {list(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ]
        check_keys(what, [n for n in own if n not in state], [n for n in state if n not in own], wrong)
        check_numbers(what, state, own)
        self._fill("", state, owned=owned)

    @abstractmethod
    def _fresh(self) -> PictureModel:
        """A model of the same settings with fresh weights."""

    def _fill(self, part: str, state: dict[str, Tensor], *, owned: bool) -> None:
        """Put tensors of the right shapes into ``part`` ("" for all), which may have no memory yet.

        The tensors of an ``owned`` state are taken over, or converted one by one: no large model is in memory twice.
        What then still has none, since ``state`` says nothing of it, gets the value that a fresh model has.
        """
        module = self.get_submodule(part)
        own = module.state_dict()
        if not any(tensor.is_meta for tensor in own.values()):
            module.load_state_dict(state, strict=False)
            return
        empty = {name: torch.empty_like(tensor, device="cpu") for name, tensor in own.items() if not tensor.numel()}
        tensors = state if owned else dict(state)
        for name in list(tensors):
            tensors[name] = tensors[name].to(own[name].dtype, copy=not owned)
        module.load_state_dict(empty | tensors, strict=False, assign=True)
        left = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
        if left:
            with torch.random.fork_rng(devices=[]):
                fresh = self._fresh().get_submodule(part)
            for name in left:
                owner, _, attribute = name.rpartition(".")
                setattr(module.get_submodule(owner), attribute, getattr(fresh.get_submodule(owner), attribute))
