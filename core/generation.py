"""Sampling new pictures: the recursion run forward from the start token (VAR Sec. 3.2 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from cyclevar.core.cache import KeyValueCache
from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces import Condition
from cyclevar.core.model import Model

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Generation:
    """Generated pictures.

    ``image``: float ``[B,3,H,W]`` in [-1,1]; ``codes``: one tensor a scale; ``logits``: float32 ``[B,L,logit_dim]``
    after guidance and temperature, before any filter.
    """

    image: Tensor
    codes: Sequence[Tensor]
    logits: Tensor


@torch.no_grad()
def generate(
    model: Model,
    condition: Condition,
    *,
    guidance: float | Sequence[float] = 0.0,
    temperature: float | Sequence[float] = 1.0,
    top_k: int | Sequence[int] = 0,
    top_p: float | Sequence[float] = 0.0,
    generator: torch.Generator | None = None,
    edit: Callable[[int, Tensor], Tensor] | None = None,
) -> Generation:
    """Draw one picture a row of ``condition``, coarse to fine.

    ``guidance``, ``temperature``, ``top_k`` and ``top_p`` (as in `filter_logits`) are one number, or one a scale.
    ``guidance`` 0 at all scales switches classifier-free guidance off; otherwise the batch runs doubled. ``top_k=1`` is
    greedy. ``edit`` is given a scale and its codes as drawn and returns those to go on with: known codes, or known ones
    outside a mask.
    """
    tokenizer, backbone, schedule = model.tokenizer, model.backbone, model.schedule
    strengths, temperatures = _per_scale(guidance, model), _per_scale(temperature, model)
    top_ks, top_ps = _per_scale(top_k, model), _per_scale(top_p, model)
    cache = KeyValueCache(backbone.depth, schedule)
    state = tokenizer.begin(len(condition), schedule)
    all_codes, all_logits = [], []
    for scale, size in enumerate(schedule.sizes):
        feature = tokenizer.next_input(state)
        if any(strengths):
            logits = backbone.guided(feature, condition, schedule, scale, cache, strengths[scale])
        else:
            logits = backbone([feature], condition, schedule, first=scale, cache=cache)
        logits = logits / temperatures[scale]
        codes = tokenizer.quantizer.sample(logits, top_ks[scale], top_ps[scale], generator).unflatten(1, size)
        if edit is not None:
            codes = edit(scale, codes)
        state = tokenizer.absorb(state, tokenizer.quantizer.lookup(codes).movedim(-1, 1))
        all_codes.append(codes)
        all_logits.append(logits)
    return Generation(tokenizer.decode(tokenizer.latent(state)), all_codes, torch.cat(all_logits, dim=1))


def _per_scale(value: Number | Sequence[Number], model: Model) -> Sequence[Number]:
    scales = len(model.schedule)
    values = [value] * scales if isinstance(value, int | float) else value
    if len(values) != scales:
        raise ConfigError(f"{len(values)} values are given", expected=f"one, or {scales}: one a scale")
    return values
