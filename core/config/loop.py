"""The settings that every training has: loop, data, optimizer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from cyclevar.core.config.base import Settings
from cyclevar.core.config.inference import Share


class LoopConfig(Settings):
    """How long to train and how often to look."""

    steps: PositiveInt
    log_every: PositiveInt = 20
    validate_every: PositiveInt = 500
    sample_every: PositiveInt = 500
    save_every: PositiveInt = 250
    keep: PositiveInt = 2
    """Checkpoints to keep."""
    on_divergence: Literal["stop", "restore"] = "stop"
    """What follows on a figure, gradient or weight that is not finite: the end, or the last checkpoint and, from there,
    all updates but the one that went wrong."""
    most_restores: PositiveInt = 3
    """Updates of a run that are left out so, at most; the next one that goes wrong ends it."""
    spike: float = Field(10.0, gt=1)
    """How many times its running median a loss or a gradient norm may be before a line says so."""


class DataConfig(Settings):
    """Which pictures to train on."""

    source: str = "emoji"
    """The built-in set, or a folder in any of the layouts of docs/data.md."""
    other: str | None = None
    """A second folder, where the two domains lie apart."""
    size: PositiveInt | None = None
    """Side of the training pictures, in pixels; None: the side that the model is made for, the only one that fits."""
    load_size: PositiveInt | None = None
    """Side to resize to before a random crop of ``size``; None for no cropping."""
    flip: bool = False
    skin_tones: bool = False
    """Train on the skin-tone variants of the built-in set too."""
    most_bad: Share = 0.1
    """Share of a domain's pictures that may be unreadable and left out; with more, the training stops."""


class OptimizerConfig(Settings):
    """AdamW with linear warm-up, then no decay, a cosine to zero, or a straight line to zero over the second half."""

    learning_rate: PositiveFloat
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.01
    warmup: NonNegativeInt = 100
    decay: Literal["constant", "cosine", "linear"] = "constant"
    clip: PositiveFloat = 1.0
    """Largest gradient norm."""
