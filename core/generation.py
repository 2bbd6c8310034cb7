"""Sampling new pictures: the recursion run forward from the start token (VAR Sec. 3.2 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclevar.core.cache import KeyValueCache
from cyclevar.core.interfaces import Condition
from cyclevar.core.model import Model


@dataclass(frozen=True)
class Generation:
    """Generated pictures.

    ``image``: float ``[B,3,H,W]`` in [-1,1]; ``codes``: one tensor a scale; ``logits``: float32 ``[B,L,logit_dim]``
    after guidance, before any filter.
    """

    image: Tensor
    codes: Sequence[Tensor]
    logits: Tensor


@torch.no_grad()
def generate(
    model: Model,
    condition: Condition,
    *,
    guidance: float = 0.0,
    top_k: int = 0,
    top_p: float = 0.0,
    generator: torch.Generator | None = None,
) -> Generation:
    """Draw one picture a row of ``condition``, coarse to fine.

    ``guidance`` 0 switches classifier-free guidance off; otherwise the batch runs doubled, with the null condition.
    ``top_k`` and ``top_p`` as in `filter_logits`; ``top_k=1`` is greedy.
    """
    tokenizer, backbone, schedule = model.tokenizer, model.backbone, model.schedule
    guided = guidance != 0
    batch, running = len(condition), condition.with_null() if guided else condition
    cache = KeyValueCache(backbone.depth, schedule)
    state = tokenizer.begin(batch, schedule)
    all_codes, all_logits = [], []
    for scale, size in enumerate(schedule.sizes):
        feature = tokenizer.next_input(state)
        if guided and feature is not None:
            feature = torch.cat([feature, feature])
        logits = backbone([feature], running, schedule, first=scale, cache=cache)
        if guided:
            logits = backbone.guide(logits[:batch], logits[batch:], guidance, scale, schedule)
        codes = tokenizer.quantizer.sample(logits, top_k, top_p, generator)
        vectors = tokenizer.quantizer.lookup(codes)
        state = tokenizer.absorb(state, vectors.transpose(1, 2).unflatten(2, size))
        all_codes.append(codes.unflatten(1, size))
        all_logits.append(logits)
    return Generation(tokenizer.decode(tokenizer.latent(state)), all_codes, torch.cat(all_logits, dim=1))
