"""Finds the watermark: pictures become codes again, and the green ones are counted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.generation import schedule_for
from cyclevar.core.next_scale.pyramid import tokenize
from cyclevar_watermark.config import WatermarkConfig
from cyclevar_watermark.lists import green_codes

OTHERS = 400
"""Keys of nobody, which tell what chance gives."""

CERTAIN = 4.0
"""The z-score from which on pictures are taken for marked: chance gives it 3 times in 100000."""


@dataclass(frozen=True)
class Found:
    """What pictures show.

    ``green``: share of green codes; ``naive``: its z-score if all codes were independent, which they are not: white
    corners have the same codes in all pictures; ``z``: its z-score among what other keys find in the same pictures.
    """

    green: float
    naive: float
    z: float

    @property
    def marked(self) -> bool:
        return self.z >= CERTAIN


@torch.no_grad()
def read_codes(model: Model, images: Tensor, scales: int) -> dict[int, Tensor]:
    """Codes of the finest ``scales`` of pictures ``[B,3,H,W]`` in [-1,1], by scale.

    Raises `ConfigError` for a size that the model does not make.
    """
    schedule = schedule_for(model, (images.shape[-2], images.shape[-1]))
    codes = tokenize(model.tokenizer, model.tokenizer.encode(images), schedule).codes
    return dict(list(enumerate(codes))[-scales:])


def detect(model: Model, images: Tensor, config: WatermarkConfig) -> tuple[list[Found], Found]:
    """Look for the watermark in pictures that ``model`` drew: in each, and in all of them together."""
    quantizer, codes = model.tokenizer.quantizer, read_codes(model, images, config.scales)

    def shares(key: str) -> Tensor:
        """Of green codes in every picture, and in all: float64 ``[B+1]``."""
        found = torch.cat([green_codes(key, scale, part, quantizer) for scale, part in codes.items()], dim=1)
        each = found.double().mean(1)
        return torch.cat([each, each.mean()[None]])

    own = shares(config.key)
    others = torch.stack([shares(f"the key of nobody, number {number}") for number in range(OTHERS)])
    z = (own - others.mean(0)) / others.std(0).clamp_min(1e-9)
    count = sum(part[0].numel() for part in codes.values())
    counts = [count] * len(images) + [count * len(images)]
    found = [
        Found(float(share), float(share - 0.5) * 2 * math.sqrt(n), float(score))
        for share, score, n in zip(own, z, counts, strict=True)
    ]
    return found[:-1], found[-1]
