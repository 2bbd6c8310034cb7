"""Settings of the VAR family and its published sizes (arXiv 2404.02905; torch-free)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, PositiveInt

from cyclevar.core.config.base import Settings
from cyclevar.core.config.families import ClassConditionalConfig, FamilyConfig, Measures, PublishedFile
from cyclevar.core.config.inference import SamplingConfig


class VarTokenizerConfig(Settings):
    """The multi-scale VQ tokenizer. Defaults: the published ``vae_ch160v4096z32``."""

    codebook_size: PositiveInt = 4096
    channels: PositiveInt = 32
    width: PositiveInt = 160
    multipliers: tuple[PositiveInt, ...] = (1, 1, 2, 2, 4)
    residual_blocks: PositiveInt = 2
    phi_count: PositiveInt = 4
    phi_ratio: float = Field(0.5, ge=0, le=1)
    patch: PositiveInt = 1
    """Side of the pixel patches folded into channels at the border; the published models have 1."""
    quantizer: str = "index"
    """A registered quantizer; that of VAR is a code book of ``codebook_size``."""
    quantizer_settings: dict[str, Any] = Field({})
    """Of the quantizer."""


class VarBackboneConfig(ClassConditionalConfig):
    """The class-conditional transformer. Defaults: the published ``d16``."""


class VarConfig(FamilyConfig):
    """A VAR model: tokenizer, backbone and the schedule that both were made for."""

    tokenizer: VarTokenizerConfig = VarTokenizerConfig()
    backbone: VarBackboneConfig = VarBackboneConfig()
    schedule: str = "1-2-3-4-5-6-8-10-13-16"

    @classmethod
    def presets(cls) -> Mapping[str, VarConfig]:
        return PRESETS

    @classmethod
    def measures(cls) -> Mapping[str, Measures]:
        return MEASURES

    @classmethod
    def published(cls) -> Sequence[PublishedFile]:
        return PUBLISHED

    def conditions(self) -> str:
        return self.backbone.conditions()


SAMPLING = SamplingConfig(guidance=1.5, top_k=900, top_p=0.96)
"""What the published figures were sampled with (VAR Sec. 5)."""


def published(depth: int, *, schedule: str = "1-2-3-4-5-6-8-10-13-16", shared_adaln: bool = False) -> VarConfig:
    """The published size of ``depth`` blocks (VAR Table 5): width 64*depth, depth heads, drop path 0.1*depth/24."""
    backbone = VarBackboneConfig(
        depth=depth, width=64 * depth, heads=depth, shared_adaln=shared_adaln, drop_path=0.1 * depth / 24
    )
    return VarConfig(backbone=backbone, schedule=schedule, sampling=SAMPLING)


PRESETS: dict[str, VarConfig] = {
    "tiny": VarConfig(
        tokenizer=VarTokenizerConfig(
            codebook_size=2048, channels=16, width=96, multipliers=(1,), residual_blocks=1, patch=4
        ),
        backbone=VarBackboneConfig(depth=4, width=160, heads=5, classes=2, class_names=("noto", "fluent")),
        schedule="1-2-3-4-6-8-12-16",
        sampling=SamplingConfig(guidance=2.0, top_k=600, top_p=0.95),
    ),
    "d16": published(16),
    "d20": published(20),
    "d24": published(24),
    "d30": published(30),
    "d36": published(36, schedule="1-2-3-4-6-9-13-18-24-32", shared_adaln=True),
}

MEASURES = {
    "tiny": Measures(1_510_368, 2_322_868, 4),
    "d16": Measures(108_948_355, 310_283_520, 16),
    "d20": Measures(108_948_355, 600_917_136, 16),
    "d24": Measures(108_948_355, 1_033_399_360, 16),
    "d30": Measures(108_948_355, 2_010_020_356, 16),
    "d36": Measures(108_948_355, 2_353_893_904, 16),
}

PUBLISHED = tuple(
    PublishedFile(name, part, presets, repository="FoundationVision/var", licence="MIT")
    for name, part, presets in (
        ("vae_ch160v4096z32.pth", "tokenizer", ("d16", "d20", "d24", "d30", "d36")),
        ("var_d16.pth", "backbone", ("d16",)),
        ("var_d20.pth", "backbone", ("d20",)),
        ("var_d24.pth", "backbone", ("d24",)),
        ("var_d30.pth", "backbone", ("d30",)),
        ("var_d36.pth", "backbone", ("d36",)),
    )
)
