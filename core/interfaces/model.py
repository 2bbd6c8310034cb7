"""What a translator holds and the trainer trains: a model that turns pictures of one domain into another's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from cyclevar.core.config.base import Settings
from cyclevar.core.config.families import FamilyConfig
from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.interfaces.backbone import Backbone, Condition
from cyclevar.core.interfaces.callbacks import Session
from cyclevar.core.interfaces.tokenizer import Tokenizer
from cyclevar.core.schedule import ScaleSchedule

if TYPE_CHECKING:
    from cyclevar.core.interfaces.callbacks import Session

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

    @abstractmethod
    def save(self, path: str | Path, *, half: bool = False, extra: Mapping[str, Any] | None = None) -> None:
        """Write weights and settings to one safetensors file; ``half`` stores float16."""

    @abstractmethod
    def load_state(self, state: dict[str, Tensor], *, what: str, owned: bool = False) -> None:
        """Load our own state dict, any float type. Raises `CheckpointError` naming what does not fit or is not finite.

        A model that has no memory yet takes over the very tensors of an ``owned`` one, which the caller then forgets.
        """


class TokenModel(PictureModel):
    """A `PictureModel` of a ``tokenizer`` and a ``backbone`` over one ``schedule``: what the flow needs of a model."""

    tokenizer: Tokenizer
    backbone: Backbone
    schedule: ScaleSchedule

    @property
    @abstractmethod
    def config(self) -> FamilyConfig:
        """The settings of the family, with the domains that were added since."""


@dataclass(frozen=True)
class Step:
    """What one generator step made.

    ``losses``: scalars by name (gan, cycle, identity), unweighted; ``fakes``: a batch of each domain, ``[B,3,H,W]``, of
    no pictures where only the identity was due; ``first``: the first pass, rows a->b, b->a and, where due, a->a, b->b.
    """

    losses: dict[str, Tensor]
    fakes: tuple[Tensor, Tensor]
    first: Translated
