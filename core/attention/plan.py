"""Attention plans: which tokens see which, planned once per call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.errors import ConfigError
from cyclevar.core.schedule import ScaleSchedule

Span = tuple[int, int]


@dataclass(frozen=True)
class Visibility:
    """``sees[q][k]``: whether the tokens of scale ``q`` see those of scale ``k``.

    A subclass may let them see some of those tokens only (`tokens`). The cache keeps a scale as long as a later one
    sees it.
    """

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

    def tokens(self, schedule: ScaleSchedule, query_scale: int, key_scale: int) -> Tensor | None:
        """Which tokens of a scale that is seen: bool ``[l_q,l_k]``, a row for each query; here None, for all.

        Called for every plan: an answer that takes long belongs into a cache.
        """
        return None

    def pairs(self, schedule: ScaleSchedule) -> int:
        """Pairs of a query and a key that meet in one pass over all scales of ``schedule``, per head and picture."""
        found = 0
        for q, row in enumerate(self.sees):
            for k in (k for k, visible in enumerate(row) if visible):
                some = self.tokens(schedule, q, k)
                found += schedule.lengths[q] * schedule.lengths[k] if some is None else int(some.sum())
        return found


@dataclass(frozen=True)
class Block:
    """Consecutive queries and the key ranges that they see.

    ``mask``: which of those keys, bool ``[queries,keys]`` over the ranges one after the other; None for all.
    """

    queries: Span
    keys: tuple[Span, ...]
    mask: Tensor | None = field(default=None, compare=False)


@dataclass(frozen=True)
class AttentionPlan:
    """What one call of a backbone attends to, the same in all its layers."""

    blocks: tuple[Block, ...]
    backend: str = "auto"

    def moved(self, place: Callable[[int], int]) -> AttentionPlan:
        """The plan where the key that was at ``i`` is at ``place(i)``. Raises `ConfigError` where tokens are masked."""
        if any(block.mask is not None for block in self.blocks):
            raise ConfigError(
                "a visibility that hides single tokens and a cache policy are asked for together",
                expected="one of the two",
            )
        blocks = (
            replace(block, keys=tuple((place(low), place(high)) for low, high in block.keys)) for block in self.blocks
        )
        return replace(self, blocks=tuple(blocks))


def plan_attention(
    schedule: ScaleSchedule,
    visibility: Visibility,
    scales: Sequence[int],
    kept: Sequence[int] = (),
    backend: str = "auto",
    device: torch.device | None = None,
    prefix: int = 0,
) -> AttentionPlan:
    """Plan the queries of ``scales`` against the keys of the ``kept`` (cached) scales followed by ``scales``.

    Masks of single tokens, where the visibility has any, lie on ``device``. ``prefix`` tokens stand before the first
    scale and belong to it: they see what it sees, and are seen where it is.

    Raises `ConfigError` if the visibility was made for another number of scales, or lets a scale see nothing or one
    that is absent.
    """
    if len(visibility.sees) != len(schedule):
        raise ConfigError(
            f"the visibility is made for {len(visibility.sees)} scales", expected=f"{len(schedule)}, as in {schedule}"
        )
    present, spans, begin = (*kept, *scales), {}, 0
    for scale in present:
        spans[scale] = (begin, begin + schedule.lengths[scale] + (0 if scale else prefix))
        begin = spans[scale][1]
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
        mask = _token_mask(schedule, visibility, scale, device, prefix)
        blocks.append(Block((low - offset, high - offset), tuple(ranges), mask))
    return AttentionPlan(tuple(blocks), backend)


def _token_mask(
    schedule: ScaleSchedule, visibility: Visibility, scale: int, device: torch.device | None, prefix: int
) -> Tensor | None:
    """Which tokens of the scales that it sees a scale sees, bool ``[l_q,keys]``; None for all. No prefix is hidden."""
    if type(visibility).tokens is Visibility.tokens:
        return None
    seen = [k for k, visible in enumerate(visibility.sees[scale]) if visible]
    parts = [visibility.tokens(schedule, scale, k) for k in seen]
    if all(part is None for part in parts):
        return None
    rows = schedule.lengths[scale]
    whole = [
        torch.ones(rows, schedule.lengths[k], dtype=torch.bool) if part is None else part
        for k, part in zip(seen, parts, strict=True)
    ]
    mask = torch.cat(whole, dim=1)
    if prefix:  # columns before those of scale 0, rows before its own
        mask = F.pad(mask, (prefix if 0 in seen else 0, 0, 0 if scale else prefix, 0), value=True)
    return mask.to(device)


def dense_mask(plan: AttentionPlan, queries: int, keys: int, device: torch.device) -> Tensor:
    """The plan as a mask: bool ``[queries,keys]``, True where seen."""
    mask = torch.zeros(queries, keys, dtype=torch.bool, device=device)
    for block in plan.blocks:
        begin = 0
        for low, high in block.keys:
            part = True if block.mask is None else block.mask[:, begin : begin + high - low].to(device)
            mask[slice(*block.queries), low:high] = part
            begin += high - low
    return mask
