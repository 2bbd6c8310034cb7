"""Puts the model together."""

from __future__ import annotations

from cyclevar.core.models.model import Model
from cyclevar.core.schedule import ScaleSchedule
from cyclevar_tinybackbone.backbone import TinyBackbone
from cyclevar_tinybackbone.config import TinyConfig
from cyclevar_tinybackbone.tokenizer import TinyTokenizer


def build(config: TinyConfig) -> Model:
    """The model with fresh weights."""
    schedule = ScaleSchedule.parse(config.schedule)
    tokenizer = TinyTokenizer(config.tokenizer, schedule)
    backbone = TinyBackbone(config.backbone, tokenizer.channels, tokenizer.quantizer.logit_dim, schedule)
    return Model("tinybackbone", config, tokenizer, backbone, schedule)
