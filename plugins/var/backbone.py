"""VAR's transformer: class-conditional next-scale prediction (VAR Sec. 3-4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cyclevar.core.config.inference import SamplingConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.networks.class_conditional import ClassConditionalBackbone
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.var.config import VarBackboneConfig


class VarBackbone(ClassConditionalBackbone):
    """A learned row for every position of every scale, and one for every scale."""

    config: VarBackboneConfig

    def __init__(self, config: VarBackboneConfig, channels: int, codes: int, schedule: ScaleSchedule) -> None:
        super().__init__(config, channels, codes, schedule.lengths[0])
        self.schedule = schedule
        self.position = nn.Parameter(torch.empty(1, schedule.total, config.width))
        self.scale_embedding = nn.Parameter(torch.empty(len(schedule), config.width))
        self.initialize()

    def place(self, x: Tensor, scale: int, schedule: ScaleSchedule) -> Tensor:
        if schedule.sizes != self.schedule.sizes:
            raise ConfigError(
                f"the schedule is {schedule}", expected=f"{self.schedule}, whose positions this transformer learned"
            )
        return x + self.scale_embedding[scale] + self.position[:, slice(*schedule.spans[scale])]

    def guide(
        self,
        logits: Tensor,
        null_logits: Tensor,
        strength: float,
        scale: int,
        schedule: ScaleSchedule,
        sampling: SamplingConfig,
    ) -> Tensor:
        """VAR's guidance grows linearly from nothing at the first scale to ``strength`` at the last."""
        t = strength * scale / max(len(schedule) - 1, 1)
        return (1 + t) * logits - t * null_logits
