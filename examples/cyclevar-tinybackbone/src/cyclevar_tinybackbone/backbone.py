"""A plain transformer over the tokens of all scales; what it is told is added to every token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclevar.core.attention.cache import KeyValueCache
from cyclevar.core.attention.kernels import attend
from cyclevar.core.attention.plan import AttentionPlan, Visibility, plan_attention
from cyclevar.core.config.inference import SamplingConfig
from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.interfaces import Backbone, Condition, Start, Targets
from cyclevar.core.schedule import ScaleSchedule
from cyclevar_tinybackbone.config import TinyBackboneConfig


class Attention(nn.Module):
    """Multi-head attention: the plan says who sees whom, the cache holds what was computed before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, plan: AttentionPlan, cache: KeyValueCache | None, layer: int) -> Tensor:
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in self.qkv(x).chunk(3, dim=-1))
        factor = query.shape[-1] ** -0.5
        if cache is not None:
            key, value = cache.extend(layer, key, value)
            plan = cache.plan(layer, plan)
        mixed: Tensor = self.out(attend(query, key, value, plan, factor).flatten(2))
        if cache is not None:
            cache.settle(layer, query, factor)
        return mixed


class Block(nn.Module):
    """Attention and two linear layers, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = Attention(width, heads)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, told: Tensor, plan: AttentionPlan, cache: KeyValueCache | None, layer: int) -> Tensor:
        x = x + self.attention(self.norms[0](x + told), plan, cache, layer)
        out: Tensor = x + self.feed_forward(self.norms[1](x))
        return out


class TinyBackbone(Backbone):
    """Learned positions of one schedule, and a row for each domain behind one for no domain."""

    config: TinyBackboneConfig
    capabilities = frozenset({"cache_policy", "taps"})

    def __init__(self, config: TinyBackboneConfig, channels: int, codes: int, schedule: ScaleSchedule) -> None:
        super().__init__()
        self.config, self.depth, self.logit_dim, self.schedule = config, config.depth, codes, schedule
        self.embed = nn.Linear(channels, config.width)
        self.start = nn.Parameter(torch.zeros(config.width))
        self.domains = nn.Parameter(torch.randn(1 + len(config.domains), config.width) * 0.2)
        self.position = nn.Parameter(torch.randn(schedule.total, config.width) * 0.2)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, codes)

    @property
    def names(self) -> tuple[str, ...]:
        return self.config.domains

    def domain_parameters(self) -> Sequence[nn.Parameter]:
        return (self.domains,)

    @torch.no_grad()
    def add_domain(self, name: str, like: int | str | None = None) -> None:
        new = self.domains.mean(0) if like is None else self.condition([like]).vector[0]
        self.domains = nn.Parameter(torch.cat([self.domains, new[None]]))
        self.config = self.config.model_copy(update={"domains": (*self.names, name)})

    def condition(self, targets: Targets) -> Condition:
        rows = torch.tensor([1 + self._number(target) for target in targets], device=self.domains.device)
        null = F.embedding(torch.zeros_like(rows), self.domains)
        return Condition(F.embedding(rows, self.domains), null=Condition(null))

    def _number(self, target: int | str) -> int:
        number = self.names.index(target) if target in self.names else target
        if number not in range(len(self.names)):
            raise UnknownNameError("domain", str(target), self.names)
        return int(number)

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
        if schedule != self.schedule:
            raise ConfigError(f"the schedule is {schedule}", expected=f"{self.schedule}, whose positions it learned")
        scales = range(first, first + len(features))
        x = torch.cat([self._tokens(*one, len(condition), start) for one in zip(scales, features, strict=True)], dim=1)
        visibility = visibility or (cache.visibility if cache else Visibility.causal(len(schedule)))
        present = scales, cache.kept if cache else ()
        plan = plan_attention(schedule, visibility, *present, self.attention_backend, x.device)
        for layer, block in enumerate(self.blocks):
            x = self.run_block(block, x, condition.vector[:, None], plan, cache, layer)
        if cache is not None:
            cache.commit(scales)
        logits: Tensor = self.head(self.norm(x)).float()
        return logits

    def _tokens(self, scale: int, part: Tensor | None, batch: int, start: Start) -> Tensor:
        """Tokens of one scale ``[B,h_k*w_k,width]`` with their positions."""
        x = self.position[slice(*self.schedule.spans[scale])].expand(batch, -1, -1)
        if scale == 0 and (part is None or start == "add"):
            x = x + self.start
        return x if part is None else x + self.embed(part.flatten(2).transpose(1, 2))

    def guide(
        self,
        logits: Tensor,
        null_logits: Tensor,
        strength: float,
        scale: int,
        schedule: ScaleSchedule,
        sampling: SamplingConfig,
    ) -> Tensor:
        return logits + strength * (logits - null_logits)
