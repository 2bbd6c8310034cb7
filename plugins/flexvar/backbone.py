"""FlexVAR's transformer: ground-truth prediction over any schedule (Sec. 3.1 and 3.3)."""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor, nn

from cyclevar.core.config.inference import SamplingConfig
from cyclevar.core.networks.class_conditional import ClassConditionalBackbone
from cyclevar.core.next_scale.pyramid import resize
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.flexvar.config import FlexVarBackboneConfig, FlexVarSamplingConfig
from cyclevar.plugins.flexvar.schedules import draw_schedule

RAMP = 9
"""Scales after the first over which guidance rises: those of the ten-step schedule, however many there are now."""


class FlexVarBackbone(ClassConditionalBackbone):
    """A learned two-dimensional table of positions, resized to every scale; nothing says which scale a token is of."""

    config: FlexVarBackboneConfig

    def __init__(self, config: FlexVarBackboneConfig, channels: int, codes: int, schedule: ScaleSchedule) -> None:
        super().__init__(config, channels, codes, first=1)
        self.trained_side = max(schedule.full)
        self.position = nn.Parameter(torch.empty(1, config.width, config.position_grid, config.position_grid))
        self.initialize()
        with torch.no_grad():
            self.position.copy_(waves(config.width, config.position_grid))

    def rows(self, size: tuple[int, int]) -> Tensor:
        """The positions of a scale, ``[1,h*w,width]``: means of the table's cells, repeated ones on a larger scale."""
        return resize(self.position, size, "area").flatten(2).transpose(1, 2)

    def place(self, x: Tensor, scale: int, schedule: ScaleSchedule) -> Tensor:
        return x + self.rows(schedule.sizes[scale])

    def guide(
        self,
        logits: Tensor,
        null_logits: Tensor,
        strength: float,
        scale: int,
        schedule: ScaleSchedule,
        sampling: SamplingConfig,
    ) -> Tensor:
        """Either of the published kinds, as `FlexVarSamplingConfig` tells them."""
        assert isinstance(sampling, FlexVarSamplingConfig)
        if sampling.style == "llamagen":
            return null_logits + strength * (logits - null_logits)
        beyond = max(schedule.sizes[scale]) > (sampling.full_from or self.trained_side)
        t = strength if beyond else strength * scale / max(min(len(schedule) - 1, RAMP), 1)
        return (1 + t) * logits - t * null_logits

    def training_schedule(self, schedule: ScaleSchedule, random: Random) -> ScaleSchedule:
        return draw_schedule(schedule, random)


def waves(channels: int, side: int) -> Tensor:
    """The initial table ``[1,channels,side,side]``: sines of the row and cosines of the column, alternating."""
    half = torch.arange(0, channels, 2)
    frequency = 10000.0 ** (-half / channels)
    angle = torch.arange(side)[:, None] * frequency
    table = torch.stack([angle.sin()[:, None].expand(-1, side, -1), angle.cos()[None].expand(side, -1, -1)], dim=-1)
    return table.flatten(2)[..., :channels].permute(2, 0, 1)[None]
