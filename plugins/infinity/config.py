"""Settings of the Infinity family and its published sizes (arXiv 2412.04431; torch-free)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from cyclevar.core.config.base import Settings
from cyclevar.core.config.families import FamilyConfig, Measures, PublishedFile, Size
from cyclevar.core.config.inference import SamplingConfig, Share
from cyclevar.core.errors import ConfigError
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.infinity import schedules

WORDS = "words"
"""The text encoder that is part of the backbone and learns with it."""


class InfinityTokenizerConfig(Settings):
    """The bitwise residual tokenizer. Defaults: the published ``infinity_vae_d32`` and ``infinity_vae_d32reg``."""

    bits: PositiveInt = 32
    """Channels of the latent, one bit each."""
    width: PositiveInt = 128
    multipliers: tuple[PositiveInt, ...] = (1, 2, 4, 4, 4)
    patch: PositiveInt = 16
    """Pixels that a cell of the latent spans, each way."""
    residual_blocks: PositiveInt = 2
    unshuffle: PositiveInt = 1
    """Side of the pixel squares folded into channels at the border; the published models have 1."""
    attention: bool = False
    """Attention at the coarsest level; the published models have none."""
    quantizer: Literal["bsq", "lfq"] = "bsq"
    flip_strength: float = Field(0.3, ge=0, le=1)
    """While a backbone is pre-trained, the largest share of bits flipped in what it reads (bitwise self-correction)."""
    flip_scales: NonNegativeInt = 13
    """Scales, from the coarsest on, whose bits are flipped then."""

    @model_validator(mode="after")
    def _levels_make_the_patch(self) -> Self:
        made = self.unshuffle * 2 ** (len(self.multipliers) - 1)
        if made != self.patch:
            raise ValueError(
                f"patch {made}, which unshuffle {self.unshuffle} and {len(self.multipliers)} multipliers make"
            )
        return self


class InfinityBackboneConfig(Settings):
    """The text-conditional transformer. Defaults: the published 2B."""

    depth: PositiveInt = 32
    width: PositiveInt = 2048
    heads: PositiveInt = 16
    mlp_ratio: float = Field(4.0, gt=0)
    """Hidden width of the feed-forward over ``width``, rounded to a multiple of 256."""
    chunks: PositiveInt = 8
    """Groups of blocks in the names of the published files; 1: none."""
    text_channels: PositiveInt = 2048
    text_length: PositiveInt = 512
    """Most tokens of a prompt."""
    text_encoder: str = "google/flan-t5-xl"
    """A T5 of the Hugging Face hub or in a folder; or ``words``: a small encoder that is trained with the backbone."""
    word_buckets: PositiveInt = 2048
    """Rows of the table of word parts of the text encoder ``words``."""
    spatial_patchify: bool = False
    """Read 2x2 cells of the latent as one token."""
    rotary: Literal["reference", "stretched", "index"] = "reference"
    """Which position a cell has: its own in the finest map of the largest budget (all releases), between the rows of
    a table that every map is stretched to, or its row and column."""
    norm_eps: float = Field(1e-6, gt=0)
    drop_path: float = Field(0.1, ge=0, lt=1)
    """Rate of dropped branches in the last block while pre-training, rising linearly from 0 in the first."""
    prompts: dict[str, str] = Field({})
    """What the backbone is told for each domain that has a name."""
    encoded_prompts: dict[str, PositiveInt] = Field({})
    """Prompts whose encoding is stored with the weights, and how many tokens each has."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % (4 * self.heads):
            raise ValueError(f"a width that is a multiple of 4 times heads ({self.heads}), not {self.width}")
        if self.depth % self.chunks:
            raise ValueError(f"a number of chunks that divides depth ({self.depth}), not {self.chunks}")
        return self


class InfinitySampling(SamplingConfig):
    """``guidance`` g makes g times the conditional minus (g-1) times the unconditional prediction: 1 is none."""

    guidance: float | tuple[float, ...] = 3.0
    top_p: Share | tuple[Share, ...] = 0.97
    guidance_layers: tuple[int, ...] = (0,)
    """Where guidance acts: 0 on the logits; -1 on what comes out of the last block, -2 of the one before, and so on."""

    @property
    def no_guidance(self) -> float:
        return 1.0


class InfinityConfig(FamilyConfig):
    """An Infinity model. ``schedule`` is a list of sizes or a published one, such as ``0.06M@1.0`` (budget@ratio)."""

    tokenizer: InfinityTokenizerConfig = InfinityTokenizerConfig()
    backbone: InfinityBackboneConfig = InfinityBackboneConfig()
    schedule: str = "1M@1.0"
    sampling: InfinitySampling = InfinitySampling()

    @classmethod
    def presets(cls) -> Mapping[str, InfinityConfig]:
        return PRESETS

    @classmethod
    def measures(cls) -> Mapping[str, Measures]:
        return MEASURES

    @classmethod
    def published(cls) -> Sequence[PublishedFile]:
        return PUBLISHED

    @classmethod
    def schedules(cls) -> Mapping[str, str]:
        return schedules.NAMED

    @classmethod
    def parse_schedule(cls, text: str) -> ScaleSchedule:
        if "@" in text and text not in schedules.NAMED:
            raise ConfigError(
                f"there is no schedule {text!r}",
                expected=f"one of {', '.join(schedules.BUDGETS)}, then @, then a ratio of height to width: "
                + ", ".join(map(str, sorted(schedules.SIZES))),
                hint="a list of sizes such as 1-2-4-6 works too",
            )
        return super().parse_schedule(text)

    def nearest_schedule(self, size: Size) -> ScaleSchedule:
        own = self.parse_schedule(self.schedule)
        return own if own.full == tuple(size) else self.parse_schedule(schedules.nearest_name(size))

    def conditions(self) -> str:
        return f"prompts, encoded by {self.backbone.text_encoder}"


def published(
    depth: int, width: int, heads: int, chunks: int = 4, *, schedule: str = "0.06M@1.0", patchify: bool = False
) -> InfinityConfig:
    """A published size. ``patchify``: with the tokenizer of 8-pixel cells, four of which make a token."""
    folded = InfinityTokenizerConfig(bits=14, multipliers=(1, 2, 4, 4), patch=8)
    tokenizer = folded if patchify else InfinityTokenizerConfig()
    backbone = {"depth": depth, "width": width, "heads": heads, "chunks": chunks, "spatial_patchify": patchify}
    return InfinityConfig.model_validate({"tokenizer": tokenizer, "backbone": backbone, "schedule": schedule})


PRESETS: dict[str, InfinityConfig] = {
    "tiny": InfinityConfig(
        tokenizer=InfinityTokenizerConfig(
            bits=16, width=96, multipliers=(1,), patch=4, residual_blocks=1, unshuffle=4, attention=True
        ),
        backbone=InfinityBackboneConfig(
            depth=4,
            width=160,
            heads=5,
            chunks=1,
            text_channels=128,
            text_length=16,
            text_encoder=WORDS,
            drop_path=0.0,
            prompts={"noto": "an emoji drawn by Noto", "fluent": "an emoji drawn by Fluent"},
        ),
        schedule="0.06M@1.0",
        sampling=InfinitySampling(guidance=2.0),
    ),
    "layer12": published(12, 768, 8),
    "layer16": published(16, 1152, 12),
    "layer24": published(24, 1536, 16),
    "2b": published(32, 2048, 16, 8, schedule="1M@1.0"),
    "layer32": published(32, 2080, 20),
    "layer40": published(40, 2688, 24),
    "8b": published(40, 3584, 28, 8, schedule="1M@1.0", patchify=True),
    "layer48": published(48, 3360, 28),
}

MEASURES = {
    "tiny": Measures(1_463_680, 2_080_500, 4),
    "layer12": Measures(110_118_051, 125_185_696, 16),
    "layer16": Measures(110_118_051, 361_633_792, 16),
    "layer24": Measures(110_118_051, 940_944_832, 16),
    "2b": Measures(110_118_051, 2_204_564_032, 16),
    "layer32": Measures(110_118_051, 2_256_694_912, 16),
    "layer40": Measures(110_118_051, 4_716_421_888, 16),
    "8b": Measures(81_624_209, 8_375_791_824, 16),
    "layer48": Measures(110_118_051, 8_767_198_528, 16),
}

PUBLISHED = tuple(
    PublishedFile(name, part, presets, repository="FoundationVision/Infinity", licence="MIT")
    for name, part, presets in (
        ("infinity_vae_d32reg.pth", "tokenizer", ("2b",)),
        ("infinity_2b_reg.pth", "backbone", ("2b",)),
        ("infinity_vae_d56_f8_14_patchify.pth", "tokenizer", ("8b",)),
        ("infinity_8b_weights/", "backbone", ("8b",)),
        ("infinity_8b_512x512_weights/", "backbone", ()),
        ("infinity_vae_d16.pth", "tokenizer", ()),
        ("infinity_vae_d24.pth", "tokenizer", ()),
        ("infinity_vae_d32.pth", "tokenizer", ()),
        ("infinity_vae_d64.pth", "tokenizer", ()),
    )
)
"""The smaller transformers were not published; the other tokenizers belong to none that was."""
