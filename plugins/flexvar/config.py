"""Settings of the FlexVAR family, its published sizes and schedules (arXiv 2502.20313; torch-free)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import PositiveInt

from cyclevar.core.config.base import Settings
from cyclevar.core.config.families import ClassConditionalConfig, FamilyConfig, Measures, PublishedFile, Size
from cyclevar.core.config.inference import SamplingConfig
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.flexvar.schedules import stretch


class FlexVarTokenizerConfig(Settings):
    """The scalable VQ tokenizer. Defaults: the published ``FlexVAE``."""

    codebook_size: PositiveInt = 8912
    """Not a misprint for 8192: paper and code agree on it."""
    channels: PositiveInt = 32
    z_channels: PositiveInt = 256
    """Channels between autoencoder and quantizer."""
    width: PositiveInt = 128
    multipliers: tuple[PositiveInt, ...] = (1, 1, 2, 2, 4)
    residual_blocks: PositiveInt = 2
    patch: PositiveInt = 1
    """Side of the pixel patches folded into channels at the border; the published model has 1."""
    kernel: Literal[1, 3] = 1
    """Side of the convolutions before and after the quantizer; the published model has 1."""


class FlexVarBackboneConfig(ClassConditionalConfig):
    """The class-conditional transformer. Defaults: the published ``d16``."""

    position_grid: PositiveInt = 32
    """Side of the learned table of positions, which is resized to every scale."""


class FlexVarSamplingConfig(SamplingConfig):
    """FlexVAR's two kinds of guidance."""

    style: Literal["var", "llamagen"] = "var"
    """``var``: ``guidance`` is reached linearly over the first ten scales, and 0 is none; ``llamagen``: the same at all
    scales, the null logits plus ``guidance`` times the difference, and 1 is none."""
    full_from: PositiveInt | None = None
    """Scales with a side above this have ``guidance`` in full in style ``var``; None: above the schedule's that the
    model was trained for."""

    @property
    def no_guidance(self) -> float:
        return 0.0 if self.style == "var" else 1.0


SCHEDULES = {
    "6-steps": "1-2-4-6-10-16",
    "7-steps": "1-2-3-5-8-11-16",
    "8-steps": "1-2-3-4-6-10-13-16",
    "9-steps": "1-2-3-4-5-7-10-13-16",
    "10-steps": "1-2-3-4-5-6-8-10-13-16",
    "11-steps": "1-2-3-4-5-6-7-9-11-13-16",
    "12-steps": "1-2-3-4-5-6-7-8-10-12-14-16",
    "13-steps": "1-2-3-4-5-6-7-8-9-10-12-14-16",
    "14-steps": "1-2-3-4-5-6-7-8-9-10-11-12-14-16",
    "384px-11-steps": "1-2-3-4-5-6-8-10-13-16-24",
    "512px-12-steps": "1-2-3-4-5-6-8-10-13-16-23-32",
    "512px-15-steps": "1-2-3-4-5-6-7-8-9-10-12-14-16-23-32",
}
"""The schedules that the paper samples with (its table of scale configurations); 14 steps are from its scripts alone.

They end at 16, 24 or 32 cells: 256, 384 or 512 px with the published models, 64, 96 or 128 px with ``tiny``.
"""


class FlexVarConfig(FamilyConfig):
    """A FlexVAR model, and the schedule that it uses where no other is given."""

    tokenizer: FlexVarTokenizerConfig = FlexVarTokenizerConfig()
    backbone: FlexVarBackboneConfig = FlexVarBackboneConfig()
    schedule: str = "1-2-3-4-5-6-8-10-13-16"
    sampling: FlexVarSamplingConfig = FlexVarSamplingConfig(guidance=2.5, top_k=900, top_p=0.95)

    @classmethod
    def presets(cls) -> Mapping[str, FlexVarConfig]:
        return PRESETS

    @classmethod
    def measures(cls) -> Mapping[str, Measures]:
        return MEASURES

    @classmethod
    def published(cls) -> Sequence[PublishedFile]:
        return PUBLISHED

    @classmethod
    def schedules(cls) -> Mapping[str, str]:
        return SCHEDULES

    def nearest_schedule(self, size: Size) -> ScaleSchedule:
        """There is one for every size."""
        return stretch(self.parse_schedule(self.schedule), size)

    def conditions(self) -> str:
        return self.backbone.conditions()


def published(depth: int) -> FlexVarConfig:
    """The published size of ``depth`` blocks: width 64*depth, depth heads, drop path 0.1*depth/24."""
    backbone = FlexVarBackboneConfig(depth=depth, width=64 * depth, heads=depth, drop_path=0.1 * depth / 24)
    return FlexVarConfig(backbone=backbone)


PRESETS: dict[str, FlexVarConfig] = {
    "tiny": FlexVarConfig(
        tokenizer=FlexVarTokenizerConfig(
            codebook_size=4096,
            channels=16,
            z_channels=16,
            width=96,
            multipliers=(1,),
            residual_blocks=1,
            patch=4,
            kernel=3,
        ),
        backbone=FlexVarBackboneConfig(depth=4, width=160, heads=5, classes=2, class_names=("noto", "fluent")),
        schedule="1-2-3-4-6-8-12-16",
        sampling=FlexVarSamplingConfig(guidance=2.0, top_k=600, top_p=0.95),
    ),
    "d16": published(16),
    "d20": published(20),
    "d24": published(24),
}

MEASURES = {
    "tiny": Measures(1_533_856, 2_730_356, 4),
    "d16": Measures(72_049_827, 315_561_936, 16),
    "d20": Measures(72_049_827, 607_513_952, 16),
    "d24": Measures(72_049_827, 1_041_314_576, 16),
}

PUBLISHED = tuple(
    PublishedFile(name, part, presets, repository="jiaosiyu1999/FlexVAR", licence="MIT")
    for name, part, presets in (
        ("FlexVAE.pth", "tokenizer", ("d16", "d20", "d24")),
        ("FlexVARd16-epo179.pth", "backbone", ("d16",)),
        ("FlexVARd20-epo249.pth", "backbone", ("d20",)),
        ("FlexVARd24-epo349.pth", "backbone", ("d24",)),
    )
)
