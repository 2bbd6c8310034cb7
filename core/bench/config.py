"""What is to be timed. Torch-free."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt

from cyclevar.core.config.base import Settings, merged, validate
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.models.catalog import Listed, list_models

Mode = Literal["parallel", "serial", "generate", "train"]


class BenchConfig(Settings):
    """``cyclevar bench``. Without weights the model has random ones: time does not depend on them."""

    mode: Mode = "parallel"
    backbone: str = "var"
    preset: str
    weights: str | None = None
    """A model file or a run folder; None for random weights."""
    size: PositiveInt | None = None
    """Side of the pictures in pixels; None for the model's own."""
    schedule: str | None = None
    """Sizes of the scales for random weights; None for the model's own."""
    batch: PositiveInt = 1
    """Pictures in a pass; in training, of each domain."""
    device: str = "auto"
    dtype: Literal["auto", "float32", "bf16"] = "auto"
    """``auto``: bf16 on a GPU that has it, else float32. Training keeps its weights in float32."""
    attention: str = "auto"
    compile: bool = False
    int8: bool = False
    cpu_time: bool = False
    """On a CPU: seconds that one thread of the process computes, which other processes hardly change."""
    capture: bool = False
    """Record a translation as one CUDA graph and replay it, so that it has no stages; on a CPU this changes nothing."""
    training: dict[str, Any] = Field({})
    """In training: changes to the defaults of `TrainConfig`, section by section."""


def training_settings(config: BenchConfig) -> TrainConfig:
    """Those of a training that is adversarial from its first update."""
    given = {
        "backbone": config.backbone,
        "preset": config.preset,
        "batch_size": config.batch,
        "warmup": {"steps": 0},
        "discriminator": {"pretrain_steps": 0},
        "precision": config.dtype,
        "diagnose_every": 10**6,
    }
    return validate(TrainConfig, merged(given, config.training))


def default_preset(backbone: str) -> str:
    """The smallest preset of a family that makes pictures of 256 pixels or more. Raises UnknownNameError."""
    from cyclevar.core.weights.published import family_config

    family_config(backbone)
    own = [listed for listed in list_models() if listed.family == backbone]
    if not own:
        raise ConfigError(f"the family {backbone} has no presets", hint="name one with --preset")
    return min([one for one in own if min(one.size) >= 256] or own[:1], key=_parameters).preset


def _parameters(listed: Listed) -> int:
    return listed.measures.backbone
