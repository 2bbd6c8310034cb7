"""The class-conditional transformer that VAR and the families after it share (VAR Sec. 4; blocks as in DiT)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclevar.core.attention.cache import KeyValueCache
from cyclevar.core.attention.plan import Visibility, plan_attention
from cyclevar.core.config.families import ClassConditionalConfig
from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.interfaces.backbone import Backbone, Condition, Start, Targets
from cyclevar.core.networks.transformer import AdaLNBlock, modulated_logits, modulations
from cyclevar.core.schedule import ScaleSchedule


class ClassConditionalBackbone(Backbone):
    """Tokens of all scales in one sequence; the class is start token and modulation. A family says where tokens are."""

    config: ClassConditionalConfig
    capabilities = frozenset({"cache_policy", "prefix", "taps"})

    def __init__(self, config: ClassConditionalConfig, channels: int, codes: int, first: int) -> None:
        """``channels`` of the maps, number of ``codes``, and tokens of the ``first`` scale, each with a start row."""
        super().__init__()
        if config.width % config.heads:
            raise ConfigError(f"width {config.width} is not a multiple of {config.heads} heads")
        width = config.width
        self.config = config
        self.depth, self.logit_dim = config.depth, codes
        self.embed = nn.Linear(channels, width)
        self.class_embedding = nn.Parameter(torch.empty(config.classes + 1, width))
        self.domain_embedding = nn.Parameter(torch.empty(len(config.domains), width))
        self.start_position = nn.Parameter(torch.empty(1, first, width))
        if config.shared_adaln:
            self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(
            AdaLNBlock(
                width,
                config.heads,
                round(width * config.mlp_ratio),
                shared_modulation=config.shared_adaln,
                qk_norm=config.qk_norm,
                norm_eps=config.norm_eps,
                drop_path=config.drop_path * i / max(config.depth - 1, 1),
            )
            for i in range(config.depth)
        )
        self.head_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, codes)

    @torch.no_grad()
    def initialize(self) -> None:
        """VAR's initial weights: narrow normals, small heads, residual branches scaled down by depth.

        A family calls it when all its parameters are there.
        """
        std = math.sqrt(1 / self.config.width / 3)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif not name.endswith("log_scale"):
                nn.init.trunc_normal_(parameter, std=std)
        self.head.weight.mul_(0.02)
        for block in self.blocks:
            assert isinstance(block, AdaLNBlock)
            block.attention.out.weight.div_(math.sqrt(2 * self.depth))
            block.feed_forward.down.weight.div_(math.sqrt(2 * self.depth))
            if not self.config.shared_adaln:
                gates = 2 * self.config.width
                block.modulation.weight[gates:].mul_(0.5)
                block.modulation.weight[:gates].mul_(1e-3)
        self.head_modulation.weight.mul_(0.5)

    @property
    def names(self) -> tuple[str, ...]:
        """Names that `condition` takes besides class ids."""
        return (*self.config.class_names, *self.config.domains)

    def condition(self, targets: Targets) -> Condition:
        """Class ids in ``[0, classes)`` or names, one a picture. The condition vector is the class embedding."""
        rows = targets.tolist() if isinstance(targets, Tensor) else list(targets)
        index = torch.tensor([self._row(target) for target in rows], device=self.class_embedding.device)
        table = torch.cat([self.class_embedding, self.domain_embedding]).float()
        null = F.embedding(torch.full_like(index, self.config.classes), table)
        return Condition(F.embedding(index, table), null=Condition(null))

    def _row(self, target: int | str) -> int:
        """The row of a class or domain in the table of classes, null, domains."""
        if isinstance(target, str):
            if target in self.config.domains:
                return self.config.classes + 1 + self.config.domains.index(target)
            if target in self.config.class_names:
                return self.config.class_names.index(target)
            if not target.isdecimal():
                raise UnknownNameError("domain", target, self.names, hint="class ids work too")
            target = int(target)
        if not 0 <= target < self.config.classes:
            raise ConfigError(f"class {target} is out of range", expected=f"0 to {self.config.classes - 1}")
        return target

    def prepared(self, condition: Condition) -> Condition:
        return replace(condition, modulation=modulations(self.blocks, self._shared(condition)))

    def _shared(self, condition: Condition) -> Tensor:
        """What every block is told of the condition: its vector, or the map of it that all share."""
        shared: Tensor = condition.vector
        return self.modulation(F.silu(shared)) if self.config.shared_adaln else shared

    def domain_parameters(self) -> Sequence[nn.Parameter]:
        return (self.domain_embedding,)

    @torch.no_grad()
    def add_domain(self, name: str, like: int | str | None = None) -> None:
        if name in self.names:
            raise ConfigError(f"there is already a domain {name!r}", hint="choose another name")
        new = self.class_embedding[:-1].mean(0) if like is None else self.condition([like]).vector[0]
        self.domain_embedding = nn.Parameter(torch.cat([self.domain_embedding, new[None]]))
        self.config = self.config.model_copy(update={"domains": (*self.config.domains, name)})

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
        scales = range(first, first + len(features))
        x = torch.cat(
            [
                self.place(self._tokens(k, part, condition, start), k, schedule)
                for k, part in zip(scales, features, strict=True)
            ],
            dim=1,
        )
        visibility = visibility or (cache.visibility if cache else Visibility.causal(len(schedule)))
        kept = cache.kept if cache else ()
        prefix = 0 if condition.prefix is None else condition.prefix.shape[1]
        if condition.prefix is not None and first == 0:
            x = torch.cat([condition.prefix.to(x.dtype), x], dim=1)
        plan = plan_attention(schedule, visibility, scales, kept, self.attention_backend, x.device, prefix)
        told = condition.modulation or [self._shared(condition)] * self.depth
        for layer, block in enumerate(self.blocks):
            x = self.run_block(block, x, told[layer], plan, cache, layer)
        if cache is not None:
            cache.commit(scales)
        if first == 0:
            x = x[:, prefix:]
        return modulated_logits(x, condition.vector, self.head_modulation, self.head, self.config.norm_eps)

    def _tokens(self, scale: int, part: Tensor | None, condition: Condition, start: Start) -> Tensor:
        """Embedded tokens of one scale, ``[B,h_k*w_k,width]``."""
        x = condition.vector.new_zeros(len(condition), 1, 1)
        if scale == 0 and (part is None or start == "add"):
            x = condition.vector[:, None] + self.start_position
        elif part is None:
            raise ConfigError(f"scale {scale} was given no map", expected="a map for every scale but the first")
        if part is not None:
            x = x + self.embed(part.flatten(2).transpose(1, 2)).float()
        return x

    @abstractmethod
    def place(self, x: Tensor, scale: int, schedule: ScaleSchedule) -> Tensor:
        """Tokens of one scale, told where they are. Raises `ConfigError` for a schedule that the family cannot do."""
