"""Attention over scales: who sees whom, and the one place where the kernel is chosen.

Layout everywhere: ``[B, tokens, heads, head_dim]``.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.schedule import ScaleSchedule

BACKENDS = ("auto", "xformers", "sdpa", "dense")
Span = tuple[int, int]


@dataclass(frozen=True)
class Visibility:
    """``sees[q][k]``: whether the tokens of scale ``q`` see those of scale ``k``."""

    sees: tuple[tuple[bool, ...], ...]

    @classmethod
    def causal(cls, scales: int) -> Visibility:
        """Every scale sees itself and all coarser ones, as in pretraining."""
        return cls(tuple(tuple(k <= q for k in range(scales)) for q in range(scales)))

    @classmethod
    def own(cls, scales: int) -> Visibility:
        """Every scale sees itself alone."""
        return cls(tuple(tuple(k == q for k in range(scales)) for q in range(scales)))

    @classmethod
    def last_alone(cls, scales: int) -> Visibility:
        """Causal, but the finest scale sees itself alone: no multi-scale context (CycleVAR Table 4)."""
        causal = cls.causal(scales).sees
        return cls((*causal[:-1], tuple(k == scales - 1 for k in range(scales))))

    def needed_after(self, scale: int) -> tuple[bool, ...]:
        """Which scales any scale after ``scale`` still sees; the others need not be cached."""
        later = self.sees[scale + 1 :]
        return tuple(any(row[k] for row in later) for k in range(len(self.sees)))


@dataclass(frozen=True)
class Block:
    """Consecutive queries and the key ranges that they see."""

    queries: Span
    keys: tuple[Span, ...]


@dataclass(frozen=True)
class AttentionPlan:
    """What one call of a backbone attends to, the same in all its layers."""

    blocks: tuple[Block, ...]
    backend: str = "auto"


def plan_attention(
    schedule: ScaleSchedule,
    visibility: Visibility,
    scales: Sequence[int],
    kept: Sequence[int] = (),
    backend: str = "auto",
) -> AttentionPlan:
    """Plan the queries of ``scales`` against the keys of the ``kept`` (cached) scales followed by ``scales``.

    Raises `ConfigError` if the visibility was made for another number of scales, or lets a scale see nothing or one
    that is absent.
    """
    if len(visibility.sees) != len(schedule):
        raise ConfigError(
            f"the visibility is made for {len(visibility.sees)} scales", expected=f"{len(schedule)}, as in {schedule}"
        )
    present, spans, begin = (*kept, *scales), {}, 0
    for scale in present:
        spans[scale] = (begin, begin + schedule.lengths[scale])
        begin += schedule.lengths[scale]
    offset = spans[scales[0]][0]
    blocks = []
    for scale in scales:
        ranges: list[Span] = []
        for key_scale, visible in enumerate(visibility.sees[scale]):
            if not visible:
                continue
            if key_scale not in spans:
                raise ConfigError(f"scale {scale} sees scale {key_scale}, which is neither given nor cached")
            low, high = spans[key_scale]
            if ranges and ranges[-1][1] == low:
                ranges[-1] = (ranges[-1][0], high)
            else:
                ranges.append((low, high))
        if not ranges:
            raise ConfigError(f"scale {scale} sees nothing", expected="at least one scale for each to see")
        low, high = spans[scale]
        blocks.append(Block((low - offset, high - offset), tuple(ranges)))
    return AttentionPlan(tuple(blocks), backend)


def attend(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scale: float) -> Tensor:
    """Softmax attention ``[B,l,H,D]`` of the planned blocks; ``scale`` multiplies the logits.

    One unmasked kernel call a block, which computes only the pairs that are seen; ``dense`` is the plain twin, one call
    with a mask.
    """
    backend = choose_backend(query.device, plan.backend)[0]
    if backend == "dense":
        return _sdpa(query, key, value, scale, dense_mask(plan, query.shape[1], key.shape[1], query.device))
    kernel = _xformers_kernel() if backend == "xformers" else _sdpa
    parts = [
        kernel(query[:, low:high], _ranges(key, block.keys), _ranges(value, block.keys), scale)
        for block in plan.blocks
        for low, high in [block.queries]
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def attend_to_text(query: Tensor, key: Tensor, value: Tensor, present: Tensor | None) -> Tensor:
    """Softmax attention ``[B,l,H,D]`` to keys ``[B,T,H,D]``; ``present``, bool ``[B,T]``, tells tokens from padding."""
    mask = None if present is None else present[:, None, None]
    return _sdpa(query, key, value, query.shape[-1] ** -0.5, mask)


def dense_mask(plan: AttentionPlan, queries: int, keys: int, device: torch.device) -> Tensor:
    """The plan as a mask: bool ``[queries,keys]``, True where seen."""
    mask = torch.zeros(queries, keys, dtype=torch.bool, device=device)
    for block in plan.blocks:
        for low, high in block.keys:
            mask[slice(*block.queries), low:high] = True
    return mask


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


def _xformers_problem(device: torch.device) -> str:
    """Why xformers cannot be used on ``device``; empty if a small trial went well."""
    if device.type != "cuda":
        return f"xformers does not run on {device.type}"
    if importlib.util.find_spec("xformers") is None:
        return "xformers is not installed"
    try:
        small = torch.zeros(1, 8, 1, 16, device=device)
        _xformers_kernel()(small, small, small, 1.0)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return f"xformers fails on {device.type} ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
    return ""


def _ranges(tensor: Tensor, spans: Sequence[Span]) -> Tensor:
    parts = [tensor[:, low:high] for low, high in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)


@cache
def _xformers_kernel() -> Callable[..., Tensor]:
    """xformers' memory-efficient attention; what its import says of missing C++ parts is not shown to the user."""
    logger = logging.getLogger("xformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from xformers.ops import memory_efficient_attention
    finally:
        logger.setLevel(level)

    def kernel(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out: Any = memory_efficient_attention(query, key.to(query.dtype), value.to(query.dtype), scale=scale)
        assert isinstance(out, Tensor)
        return out

    return kernel
