"""Puts an Infinity model together."""

from __future__ import annotations

from cyclevar.core.models.model import Model
from cyclevar.core.weights.name_table import OfficialFormat
from cyclevar.plugins.infinity.backbone import InfinityBackbone
from cyclevar.plugins.infinity.config import InfinityConfig
from cyclevar.plugins.infinity.official import backbone_names, tokenizer_names
from cyclevar.plugins.infinity.tokenizer import InfinityTokenizer


def build(config: InfinityConfig) -> Model:
    """An Infinity model with fresh weights."""
    schedule = config.parse_schedule(config.schedule)
    tokenizer = InfinityTokenizer(config.tokenizer, schedule, patchify=config.backbone.spatial_patchify)
    backbone = InfinityBackbone(config.backbone, tokenizer.quantizer.channels)
    official = OfficialFormat(tokenizer_names(config.tokenizer), backbone_names(config.backbone))
    return Model("infinity", config, tokenizer, backbone, schedule, official)
