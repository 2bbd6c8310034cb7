"""What a translator holds and the trainer trains: a model that turns pictures of one domain into another's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from cyclevar.core.checkpoints import check_numbers, save_tensors
from cyclevar.core.config import TranslationConfig
from cyclevar.core.interfaces import Condition
from cyclevar.core.names import check_keys
from cyclevar.core.settings import Settings

if TYPE_CHECKING:
    from cyclevar.core.session import Session

Context = Sequence[Tensor]
"""What a model reads of its input pictures, batch first in every tensor."""


@dataclass(frozen=True)
class Translated:
    """``image``: float ``[B,3,H,W]``, in [-1,1] if it was to be clamped."""

    image: Tensor


class PictureModel(nn.Module, ABC):
    """A model of one ``family``, for pictures of ``image_size``; ``config`` rebuilds it.

    A translation is ``translate(encode(images), condition(targets), settings)``.
    """

    family: str
    has_settings: bool = True
    """Whether the settings of `TranslationConfig` change its translations."""

    @property
    @abstractmethod
    def config(self) -> Settings:
        """The settings of the family, with the domains that were added since."""

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the pictures that the model is made for."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Domain names that `condition` knows."""

    @property
    @abstractmethod
    def translates(self) -> nn.Module:
        """The part that learns to translate; all else is frozen while it does."""

    @abstractmethod
    def replaced(self, translates: nn.Module) -> Self:
        """The same model with another `translates`, such as its moving average."""

    @abstractmethod
    def remember(self, targets: Sequence[int | str]) -> None:
        """Keep in the model what `condition` needs of these targets, so that once saved it needs nothing beside it."""

    @abstractmethod
    def learn(self, targets: Sequence[int | str]) -> Sequence[str]:
        """`remember` the targets and make room for the names that the model does not know, which are returned.

        Raises `ConfigError` for targets that this model cannot learn.
        """

    @abstractmethod
    def condition(self, targets: Sequence[int | str]) -> Condition:
        """What the model is told to translate to, one row a picture. Raises `UnknownNameError`."""

    @abstractmethod
    def encode(self, images: Tensor) -> Context:
        """What is read of images ``[B,3,H,W]`` in [-1,1]; gradients reach the images."""

    @abstractmethod
    def reconstruct(self, context: Context) -> Tensor:
        """The pictures that were encoded, ``[B,3,H,W]``, as well as this model can make them."""

    @abstractmethod
    def translate(
        self,
        context: Context,
        condition: Condition,
        config: TranslationConfig,
        *,
        clamp: bool = True,
        session: Session | None = None,
    ) -> Translated:
        """Translate what `encode` read. ``session``: what acts on it, where it is put together already."""

    def round_trip(self, images: Tensor) -> Tensor:
        """Images ``[B,3,H,W]`` in and out again, untranslated: the best that a translation can look."""
        return self.reconstruct(self.encode(images))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

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
