"""Backbones: next-scale transformers, and the condition that they read.

Shapes: images ``[B,3,H,W]`` float in [-1,1]; a latent ``[B,C,h,w]``; a map ``[B,C,h_k,w_k]`` is what one scale of the
schedule says of the latent; tokens are maps packed row-major, ``[B,L,C]`` with ``L = sum h_k*w_k``. Maps have the
channels of the latent, or those of its patches where a family folds patches into channels.

Parts hold tensors as parameters and buffers only, so that they can be built without memory and filled later.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cyclevar.core.config.base import Settings
from cyclevar.core.config.inference import SamplingConfig
from cyclevar.core.schedule import ScaleSchedule

if TYPE_CHECKING:
    from cyclevar.core.attention.cache import KeyValueCache
    from cyclevar.core.attention.plan import AttentionPlan, Visibility

Start = Literal["replace", "add"]
"""How a map given at scale 0 meets the start token: instead of it, or added to it (specs of CycleVAR Eq. 8)."""

Targets = Sequence[int | str] | Tensor
"""One class id, domain name or prompt per picture."""


@dataclass(frozen=True)
class Condition:
    """What the backbone is told about the target domain, one row per picture.

    ``vector``: float ``[B,D]``; ``tokens``: float ``[B,T,D_text]`` or None, of which the first ``lengths`` (int64
    ``[B]``, or None for all) count; ``prefix``: float ``[B,P,width]`` or None, tokens that stand before the first
    scale; ``null``: the same for "no condition", which guidance contrasts with; ``modulation``: what
    `Backbone.prepared` made of it, one tensor a block.
    """

    vector: Tensor
    tokens: Tensor | None = None
    lengths: Tensor | None = None
    null: Condition | None = None
    modulation: tuple[Tensor, ...] = ()
    prefix: Tensor | None = None

    def __len__(self) -> int:
        return self.vector.shape[0]

    def with_null(self) -> Condition:
        """The batch doubled: every row with its condition, then every row with the null condition."""
        if self.null is None:
            raise ValueError("this condition has no null counterpart")
        joined: dict[str, Tensor] = {}
        for field in fields(self):
            mine, other = getattr(self, field.name), getattr(self.null, field.name)
            if isinstance(mine, Tensor):
                joined[field.name] = torch.cat([mine, other])
        both = zip(self.modulation, self.null.modulation, strict=False)
        return Condition(**joined, modulation=tuple(torch.cat(pair) for pair in both))  # type: ignore[arg-type]

    def chosen(self, rows: Tensor) -> Condition:
        """The condition of these rows (int64), in this order."""
        joined = {field.name: getattr(self, field.name) for field in fields(self)}
        mine = {name: value[rows] for name, value in joined.items() if isinstance(value, Tensor)}
        modulation = tuple(part[rows] for part in self.modulation)
        null = None if self.null is None else self.null.chosen(rows)
        return Condition(**mine, null=null, modulation=modulation)

    def dropped(self, rows: Tensor) -> Condition:
        """The condition with the null condition in the given rows (bool ``[B]``): dropout for guidance."""
        null = self.null
        assert null is not None
        mixed: dict[str, Tensor | None] = {}
        for field in fields(self):
            mine, other = getattr(self, field.name), getattr(null, field.name)
            if isinstance(mine, Tensor):
                mixed[field.name] = torch.where(rows.view(-1, *[1] * (mine.ndim - 1)), other, mine)
        return Condition(**mixed, null=null)  # type: ignore[arg-type]


class Backbone(nn.Module, ABC):
    """A next-scale autoregressive transformer.

    One call serves teacher forcing, parallel translation and cached single-scale steps; all three agree to rounding.
    """

    depth: int
    logit_dim: int
    config: Settings
    capabilities: frozenset[str] = frozenset()
    """What run-time parts can rely on beyond this interface: ``cache_policy`` (its attention calls `KeyValueCache.plan`
    and `KeyValueCache.settle`), ``taps`` (its transformer blocks are the children of ``blocks``), ``prefix`` and
    ``cross_attention`` (it reads `Condition.prefix`, `Condition.tokens`)."""
    attention_backend: str = "auto"
    """Which kernel `cyclevar.core.attention.kernels` uses."""
    gradient_checkpointing: bool = False
    """Compute the blocks again in the backward pass instead of keeping their insides: less memory, more time."""

    def run_block(
        self, block: nn.Module, x: Tensor, shared: Tensor, plan: AttentionPlan, cache: KeyValueCache | None, *more: Any
    ) -> Tensor:
        """What ``block`` makes of tokens ``[B,l,width]``; all inputs are passed on in this order.

        Where a cache is filled nothing is computed again, since a block must not write to it twice.
        """
        if self.gradient_checkpointing and cache is None and torch.is_grad_enabled():
            x = checkpoint(block, x, shared, plan, cache, *more, use_reentrant=False)
        else:
            x = block(x, shared, plan, cache, *more)
        return x

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Domain names that `condition` knows."""

    @abstractmethod
    def add_domain(self, name: str, like: int | str | None = None) -> None:
        """Know a new domain from here on, starting from the class or domain ``like``, or from the mean of all."""

    def any_target(self) -> int | str:
        """Something that `condition` takes and that needs nothing besides the model: for passes that are only timed."""
        return self.names[0] if self.names else 0

    def remember(self, targets: Sequence[int | str]) -> None:
        """Keep in the model what `condition` needs of these targets, so that once saved it needs nothing beside it.

        Encoded prompts, for instance. Classes and names are kept anyway, so here this does nothing.
        """

    def domain_parameters(self) -> Sequence[nn.Parameter]:
        """What the domains that were added are known by: it learns even where the other weights are frozen."""
        return ()

    @abstractmethod
    def condition(self, targets: Targets) -> Condition:
        """Class ids, domain names or prompts, one per picture, with the null condition attached."""

    def prepared(self, condition: Condition) -> Condition:
        """The condition with what all calls of `forward` would compute of it alike: worth it for more than one."""
        return condition

    @abstractmethod
    def forward(
        self,
        features: Sequence[Tensor | None],
        condition: Condition,
        schedule: ScaleSchedule,
        *,
        first: int = 0,
        cache: KeyValueCache | None = None,
        visibility: Visibility | None = None,
        start: Start = "replace",
    ) -> Tensor:
        """Logits ``[B,l,logit_dim]`` (float32) of the scales ``first .. first+len(features)-1``.

        ``features``: one map per scale; None at scale 0 is the start token. ``cache`` holds keys and values of
        the scales before ``first``. ``visibility`` says which scale sees which (default: scale-causal).
        """

    def training_schedule(self, schedule: ScaleSchedule, random: Random) -> ScaleSchedule:
        """The schedule of one update of pre-training a model for ``schedule``; ``random`` is keyed to its step."""
        return schedule

    def guided(
        self,
        feature: Tensor | None,
        condition: Condition,
        schedule: ScaleSchedule,
        scale: int,
        cache: KeyValueCache,
        strength: float,
        sampling: SamplingConfig,
    ) -> Tensor:
        """Guided logits of one scale. The batch runs doubled, with the null condition in its second half.

        ``strength`` is the guidance of this scale; ``sampling`` brings what else the family lets a user choose.
        """
        doubled = None if feature is None else torch.cat([feature, feature])
        logits = self([doubled], condition.with_null(), schedule, first=scale, cache=cache)
        own, null = logits.chunk(2)
        return self.guide(own, null, strength, scale, schedule, sampling)

    @abstractmethod
    def guide(
        self,
        logits: Tensor,
        null_logits: Tensor,
        strength: float,
        scale: int,
        schedule: ScaleSchedule,
        sampling: SamplingConfig,
    ) -> Tensor:
        """Classifier-free guidance as this family defines it, for the logits of one scale."""
