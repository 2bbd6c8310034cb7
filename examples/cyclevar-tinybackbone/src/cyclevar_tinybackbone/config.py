"""Settings of the model; torch-free, so that listing it costs nothing."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, PositiveInt

from cyclevar.core.config.base import Settings
from cyclevar.core.config.families import FamilyConfig
from cyclevar.core.config.inference import SamplingConfig


class TinyTokenizerConfig(Settings):
    """A convolutional autoencoder around grid codes."""

    channels: PositiveInt = 4
    levels: int = Field(5, ge=2)
    """Values of a channel: there are ``levels ** channels`` codes."""
    width: PositiveInt = 96
    patch: PositiveInt = 4
    """Side, in pixels, of a cell of the finest map."""


class TinyBackboneConfig(Settings):
    """A transformer with learned positions."""

    depth: PositiveInt = 2
    width: PositiveInt = 96
    heads: PositiveInt = 3
    domains: tuple[str, ...] = ("noto", "fluent")
    """What it can be told."""


class TinyConfig(FamilyConfig):
    """The whole model, and the schedule that it is made for."""

    tokenizer: TinyTokenizerConfig = TinyTokenizerConfig()
    backbone: TinyBackboneConfig = TinyBackboneConfig()
    schedule: str = "1-2-4-8-16"
    sampling: SamplingConfig = SamplingConfig(guidance=1.0, top_k=100)

    @classmethod
    def presets(cls) -> Mapping[str, TinyConfig]:
        return {"tiny": cls()}

    def conditions(self) -> str:
        return ", ".join(self.backbone.domains)
