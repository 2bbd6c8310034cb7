"""Settings of CycleGAN (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, NonNegativeInt, PositiveInt

from cyclevar.core.config.base import Settings
from cyclevar.core.config.families import DirectConfig


class CycleganConfig(DirectConfig):
    """Both generators: residual networks at a quarter of the picture's size (arXiv 1703.10593, Sec. 7.2)."""

    size: int = Field(256, ge=8, multiple_of=4)
    width: PositiveInt = 64
    """Channels at full size; twice and four times as many further down."""
    residual_blocks: NonNegativeInt = 9

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """``resnet9`` and ``resnet6`` are the paper's, for 256 and 128 px; ``tiny`` is 64 px at half the width."""
        return {
            "tiny": cls(size=64, width=32),
            "resnet6": cls(size=128, residual_blocks=6),
            "resnet9": cls(),
        }

    @classmethod
    def training(cls) -> Mapping[str, Any]:
        """The classic recipe (Sec. 4 and 7.1): least squares, lambda 10, identity at half of it, Adam, a pool of 50.

        The pool is used in another way (`ImagePool`): each update sees the new pictures
        and one past one of each kind.
        """
        adam = {"learning_rate": 2e-4, "betas": (0.5, 0.999), "weight_decay": 0.0, "warmup": 0, "clip": 1e9}
        return {
            "batch_size": 1,
            "optimizer": {**adam, "decay": "linear"},
            "warmup": {"steps": 0},
            "discriminator": {
                "name": "patchgan70",
                "loss": "least_squares",
                "generator_loss": "least_squares",
                "optimizer": adam,
                "real": "raw",
                "pool": 50,
                "drawn": 1,
                "pretrain_steps": 0,
            },
            "loss": {
                "gan": 1.0,
                "cycle": 10.0,
                "identity": 5.0,
                "cycle_terms": {"l1": 1.0},
                "identity_terms": {"l1": 1.0},
                "cycle_every": 1,
                "identity_every": 1,
            },
            "ema": 0.0,
        }


class Patchgan70Config(Settings):
    """The discriminator of pix2pix and CycleGAN."""

    width: PositiveInt = 64
    levels: int = Field(3, ge=1, le=6)
    """Halvings of the picture; three make patches of 70 pixels."""
