"""Puts a FlexVAR model together."""

from __future__ import annotations

from cyclevar.core.models.model import Model
from cyclevar.core.weights.name_table import OfficialFormat
from cyclevar.plugins.flexvar.backbone import FlexVarBackbone
from cyclevar.plugins.flexvar.config import FlexVarConfig
from cyclevar.plugins.flexvar.official import backbone_names, tokenizer_names
from cyclevar.plugins.flexvar.tokenizer import FlexVarTokenizer


def build(config: FlexVarConfig) -> Model:
    """A FlexVAR model with fresh weights."""
    schedule = config.parse_schedule(config.schedule)
    tokenizer = FlexVarTokenizer(config.tokenizer, schedule)
    backbone = FlexVarBackbone(config.backbone, config.tokenizer.channels, config.tokenizer.codebook_size, schedule)
    official = OfficialFormat(tokenizer_names(config.tokenizer), backbone_names(config.backbone, schedule))
    return Model("flexvar", config, tokenizer, backbone, schedule, official)
