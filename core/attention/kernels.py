"""Attention by a plan: the one place where the kernel is chosen.

Layout everywhere: ``[B, tokens, heads, head_dim]``.
"""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.attention.plan import AttentionPlan, dense_mask
from cyclevar.core.attention.xformers import attend_planned, constant_when_compiled, first_line, form_problem, gather
from cyclevar.core.errors import ConfigError, UnknownNameError

BACKENDS = ("auto", "xformers", "sdpa", "dense")


def attend(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scale: float) -> Tensor:
    """Softmax attention ``[B,l,H,D]`` of the planned blocks; ``scale`` multiplies the logits.

    One kernel call a block, unmasked unless single tokens are hidden, which computes only the pairs of scales that see
    each other; xformers makes one call of all blocks where it can. ``dense`` is the plain twin, one call with a mask.
    """
    backend = _backend(query.device, plan.backend)
    if backend == "dense":
        return _sdpa(query, key, value, scale, dense_mask(plan, query.shape[1], key.shape[1], query.device))
    if backend == "xformers" and all(block.mask is None for block in plan.blocks):
        out = attend_planned(query, key, value, plan, scale)
        if out is not None:
            return out
    parts = [
        _sdpa(query[:, slice(*block.queries)], gather(key, block.keys), gather(value, block.keys), scale, block.mask)
        for block in plan.blocks
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def attend_to_text(query: Tensor, key: Tensor, value: Tensor, present: Tensor | None) -> Tensor:
    """Softmax attention ``[B,l,H,D]`` to keys ``[B,T,H,D]``; ``present``, bool ``[B,T]``, tells tokens from padding."""
    mask = None if present is None else present[:, None, None]
    return _sdpa(query, key, value, query.shape[-1] ** -0.5, mask)


@cache
def choose_backend(device: torch.device, requested: str = "auto") -> tuple[str, str]:
    """The kernel for ``device`` and the reason for it.

    ``auto``: xformers on CUDA if it works there, else scaled-dot-product attention.
    """
    if requested not in BACKENDS:
        raise UnknownNameError("attention backend", requested, BACKENDS)
    if requested in ("sdpa", "dense"):
        return requested, "asked for"
    problem = _xformers_problem(device)
    if requested == "auto":
        return ("sdpa", problem) if problem else ("xformers", f"tried on {device.type}, and it works")
    if problem:
        raise ConfigError(f"xformers attention cannot be used: {problem}", expected="auto, sdpa or dense")
    return "xformers", "asked for"


@constant_when_compiled
def _backend(device: torch.device, requested: str) -> str:
    """The kernel alone, which is the same in a process for good."""
    return choose_backend(device, requested)[0]


def _xformers_problem(device: torch.device) -> str:
    """Why xformers cannot be used on ``device``; empty if a small trial went well."""
    if device.type != "cuda":
        return f"xformers does not run on {device.type}"
    if importlib.util.find_spec("xformers") is None:
        return "xformers is not installed"
    try:
        problem = form_problem("each", False, device, torch.float32, 16)
    except (ImportError, OSError) as error:
        problem = first_line(error)
    return f"xformers fails on {device.type} ({problem})" if problem else ""


def _sdpa(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)
