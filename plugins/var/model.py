"""Puts a VAR model together."""

from __future__ import annotations

from cyclevar.core.models.model import Model
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.core.weights.name_table import OfficialFormat
from cyclevar.plugins.var.backbone import VarBackbone
from cyclevar.plugins.var.config import VarConfig
from cyclevar.plugins.var.official import backbone_names, tokenizer_names
from cyclevar.plugins.var.tokenizer import OWN_QUANTIZER, VarTokenizer


def build(config: VarConfig) -> Model:
    """A VAR model with fresh weights."""
    schedule = ScaleSchedule.parse(config.schedule)
    tokenizer = VarTokenizer(config.tokenizer, schedule)
    backbone = VarBackbone(config.backbone, tokenizer.channels, tokenizer.quantizer.logit_dim, schedule)
    official = None
    if config.tokenizer.quantizer == OWN_QUANTIZER:
        names = tokenizer_names(config.tokenizer, schedule), backbone_names(config.backbone, schedule)
        official = OfficialFormat(*names)
    return Model("var", config, tokenizer, backbone, schedule, official)
