"""Top-k and top-p filtering, and drawing codes."""

from __future__ import annotations

import torch
from torch import Tensor


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """Logits ``[...,V]`` with the codes that sampling must not draw set to -inf.

    Top-k first: codes below the k-th largest logit go, ties stay. Then top-p (nucleus): codes go, least probable first,
    while their summed probability is at most ``1 - top_p``; the most probable always stays. 0 switches a filter off.
    """
    if top_k > 0:
        threshold = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    if top_p > 0:
        ascending, order = logits.sort(dim=-1, descending=False)
        removed = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        removed[..., -1] = False
        logits = logits.masked_fill(removed.scatter(-1, order, removed), -torch.inf)
    return logits


def draw(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One index a row from logits ``[...,V]``: int64 ``[...]``."""
    rows = logits.float().softmax(-1).flatten(0, -2)
    return torch.multinomial(rows, 1, generator=generator).view(logits.shape[:-1])


def gumbel_noise(logits: Tensor) -> Tensor:
    """Standard Gumbel noise in the shape of ``logits``, from the global random state."""
    return -torch.log(torch.empty_like(logits).exponential_().clamp_min(1e-30))
