"""The settings of model families: presets, sizes, published files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from pydantic import Field, PositiveFloat, PositiveInt

from cyclevar.core.config.base import Settings
from cyclevar.core.config.inference import SamplingConfig
from cyclevar.core.schedule import ScaleSchedule

Size = tuple[int, int]
"""Height and width."""


class Measures(NamedTuple):
    """Parameters of tokenizer and backbone, and the side in pixels of a cell of the finest map."""

    tokenizer: int
    backbone: int
    stride: int


class ModelConfig(Settings):
    """Base of the settings of whatever translates pictures."""

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """The sizes that have a name."""
        return {}

    @classmethod
    def training(cls) -> Mapping[str, Any]:
        """What training this family changes of the defaults of `TrainConfig`."""
        return {}


class DirectConfig(ModelConfig):
    """Base of the settings of a generator, which translates pictures without tokens."""

    size: PositiveInt
    """Side of its pictures in pixels."""
    domains: tuple[str, ...] = ()
    """What the two domains are called, once they are known."""


class FamilyConfig(ModelConfig):
    """Base of a family's settings, which have the sections ``tokenizer`` and ``backbone`` too."""

    schedule: str
    sampling: SamplingConfig = SamplingConfig()
    """How `cyclevar.core.next_scale.generation` samples where nothing else is said."""

    @classmethod
    def measures(cls) -> Mapping[str, Measures]:
        """How large the presets are, written down so that listing them builds nothing; what lacks is measured."""
        return {}

    @classmethod
    def published(cls) -> Sequence[PublishedFile]:
        """The files with trained weights that were published for the presets."""
        return ()

    @classmethod
    def schedules(cls) -> Mapping[str, str]:
        """Schedules that have a name."""
        return {}

    @classmethod
    def parse_schedule(cls, text: str) -> ScaleSchedule:
        """A schedule by its name or in the notation of `ScaleSchedule.parse`."""
        return ScaleSchedule.parse(cls.schedules().get(text, text))

    def nearest_schedule(self, size: Size) -> ScaleSchedule:
        """The schedule for a latent of ``size`` cells, or for the nearest size that the model can make.

        Here the only one; a family that makes pictures of several sizes overrides this.
        """
        return self.parse_schedule(self.schedule)

    def conditions(self) -> str:
        """What the backbone can be told, in a few words."""
        return ""


class ClassConditionalConfig(Settings):
    """The transformer that VAR and the families after it share. Defaults: the published size of 16 blocks."""

    depth: PositiveInt = 16
    width: PositiveInt = 1024
    heads: PositiveInt = 16
    mlp_ratio: PositiveFloat = 4.0
    classes: PositiveInt = 1000
    shared_adaln: bool = False
    """One map from class to modulation for all blocks, instead of one each."""
    qk_norm: bool = True
    norm_eps: PositiveFloat = 1e-6
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Rate of dropped branches in the last block while pre-training, rising linearly from 0 in the first."""
    class_names: tuple[str, ...] = ()
    """Names of the first classes, where they have names."""
    domains: tuple[str, ...] = ()
    """Names of the domains added behind the pretrained classes."""

    def conditions(self) -> str:
        """What can be told, in a few words."""
        names = (*self.class_names, *self.domains)
        return ", ".join(names) if names else f"class 0 to {self.classes - 1}"


@dataclass(frozen=True)
class PublishedFile:
    """A file, or with a ``/`` at the end of its name a folder, in a repository of the Hugging Face hub.

    ``part``: ``tokenizer`` or ``backbone`` of the ``presets`` that it belongs to. ``revision`` pins a commit.
    ``sha256`` is given only where it was seen on the published file itself.
    """

    name: str
    part: str
    presets: tuple[str, ...]
    repository: str
    licence: str
    revision: str = "main"
    sha256: str | None = None
