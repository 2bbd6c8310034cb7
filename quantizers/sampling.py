"""Top-k and top-p filtering, and drawing codes."""

from __future__ import annotations

import torch
from torch import Tensor

from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces.quantizer import Generators
from cyclevar.core.runtime.batch_random import draw as draw_rows


def require_positive(temperature: float) -> None:
    """Raise `ConfigError` for a temperature that nothing can be divided by."""
    if temperature <= 0:
        raise ConfigError(
            f"temperature {temperature} is out of range",
            expected="a temperature above 0",
            hint="use `harden` for the hard choice",
        )


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


def draw(logits: Tensor, generator: Generators = None) -> Tensor:
    """One index a row from logits ``[B,...,V]``: int64 ``[B,...]``.

    The largest logit after Gumbel noise, which is a draw from their softmax; so each picture's draw follows its own
    logits and noise alone.
    """
    return (logits.float() + gumbel_noise(logits.float(), generator)).argmax(-1)


def gumbel_noise(logits: Tensor, generator: Generators = None) -> Tensor:
    """Standard Gumbel noise in the shape of ``logits [B,...]``.

    It is made where the generators are, so that those of the CPU give the same noise for every device.
    """
    if generator is None or isinstance(generator, torch.Generator):
        device = logits.device if generator is None else generator.device

        def numbers(count: int) -> Tensor:
            empty = torch.empty(count, *logits.shape[1:], dtype=logits.dtype, device=device)
            return empty.exponential_(generator=generator)

        waits = draw_rows(len(logits), numbers)
    else:
        rows = [torch.empty(logits.shape[1:], dtype=logits.dtype, device=one.device) for one in generator]
        waits = torch.stack([row.exponential_(generator=one) for row, one in zip(rows, generator, strict=True)])
    return -torch.log(waits.to(logits.device).clamp_min(1e-30))
