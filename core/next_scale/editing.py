"""Editing pictures: codes that are known are forced, the others drawn (VAR Sec. 5.2, FlexVAR Sec. 4.3).

What is known at a scale is the quantized target of the given picture at that point of the recursion. So where a scale
was drawn anew, finer known scales of a residual family make up for the difference, and a mask of nothing is the plain
round trip of the tokenizer.

Tensors are images ``[B,3,H,W]`` in [-1,1] and masks bool ``[1 or B,1,H,W]``, True where a picture is to be redone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces.backbone import Condition
from cyclevar.core.interfaces.callbacks import ForcedCodes, ScaleStep
from cyclevar.core.interfaces.model import TokenModel
from cyclevar.core.next_scale.generation import Generation, generate
from cyclevar.core.schedule import ScaleSchedule


@torch.no_grad()
def redraw(
    model: TokenModel,
    images: Tensor,
    redo: Sequence[Tensor],
    condition: Condition,
    *,
    schedule: ScaleSchedule | None = None,
    **settings: Any,
) -> Generation:
    """Draw the codes where ``redo`` (a scale: bool ``[1 or B,h_k,w_k]``) is True; the others are those of ``images``.

    ``settings`` are those of `generate`.
    """
    tokenizer = model.tokenizer
    latent = tokenizer.encode(images)

    def choose(step: ScaleStep, drawn: Tensor) -> Tensor:
        assert step.state is not None
        known = tokenizer.quantizer.quantize(tokenizer.target(latent, step.state)).codes
        where = redo[step.scale].to(drawn.device)
        return torch.where(where.view(*where.shape, *[1] * (drawn.ndim - 3)), drawn, known)

    return generate(model, condition, schedule=schedule, callbacks=[ForcedCodes(choose)], **settings)


def inpaint(
    model: TokenModel,
    images: Tensor,
    mask: Tensor,
    condition: Condition,
    *,
    schedule: ScaleSchedule | None = None,
    compose: bool = True,
    **settings: Any,
) -> Tensor:
    """Images with what lies inside ``mask`` drawn anew: float ``[B,3,H,W]`` in [-1,1].

    With ``compose`` the pixels outside are those of ``images``; without, they have gone through the tokenizer.
    """
    schedule = schedule or model.schedule
    image = redraw(model, images, mask_pyramid(mask, schedule), condition, schedule=schedule, **settings).image
    return torch.where(mask.to(image.device), image, images) if compose else image


def mask_pyramid(mask: Tensor, schedule: ScaleSchedule) -> list[Tensor]:
    """The cells of every scale that a mask of pixels covers by half at least; of the finest scale, those it touches.

    Coarse cells that lie mostly outside stay known, and with them the colours around; the finest lose no small mask.
    """
    share = [F.adaptive_avg_pool2d(mask.float(), size)[:, 0] for size in schedule.sizes]
    return [*(part >= 0.5 for part in share[:-1]), share[-1] > 0]


def refine(
    model: TokenModel,
    images: Tensor,
    keep: int,
    condition: Condition,
    *,
    schedule: ScaleSchedule | None = None,
    **settings: Any,
) -> Tensor:
    """Images with their ``keep`` coarsest scales kept and the finer ones drawn anew: float ``[B,3,H,W]`` in [-1,1]."""
    schedule = schedule or model.schedule
    if not 0 <= keep < len(schedule):
        raise ConfigError(f"{keep} scales are to be kept", expected=f"0 to {len(schedule) - 1} of {schedule}")
    redo = [torch.full((1, *size), scale >= keep) for scale, size in enumerate(schedule.sizes)]
    return redraw(model, images, redo, condition, schedule=schedule, **settings).image
