"""Puts the watermark into the logits."""

from __future__ import annotations

from torch import Tensor

from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces import Callback, ScaleStep, Session
from cyclevar.core.models.model import Model
from cyclevar_watermark.config import WatermarkConfig
from cyclevar_watermark.lists import green_logits


class Watermark(Callback):
    """Adds to the logits of green codes, in every picture alike."""

    def __init__(self, config: WatermarkConfig) -> None:
        self.config = config
        self._green: dict[int, Tensor] = {}

    def begin(self, session: Session) -> None:
        if not isinstance(session.model, Model):
            raise ConfigError(f"{session.model.family} has no codes to mark", expected="a model with a tokenizer")
        assert session.schedule is not None
        lengths = dict(enumerate(session.schedule.lengths))
        self._green = {
            scale: green_logits(self.config.key, scale, cells, session.model.tokenizer.quantizer)
            for scale, cells in list(lengths.items())[-self.config.scales :]
        }

    def on_logits(self, step: ScaleStep, logits: Tensor) -> Tensor:
        green = self._green.get(step.scale)
        return logits if green is None else logits + self.config.strength * green.to(logits.device)
