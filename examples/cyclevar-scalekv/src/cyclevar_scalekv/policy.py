"""Which tokens stay: those that an observation window of the newest scale looks at (ScaleKV Eq. 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from cyclevar.core.attention.cache import CachePolicy, LayerView
from cyclevar.core.errors import ConfigError
from cyclevar_scalekv.budgets import Budgets, uniform
from cyclevar_scalekv.config import ScaleKvConfig


class ScaleKvPolicy(CachePolicy):
    """Keeps a layer within its budget after every scale but the last, which nothing follows.

    The pictures of a batch keep the same tokens, those that matter most to them on average.
    """

    def __init__(self, config: ScaleKvConfig) -> None:
        self.config = config
        self.budgets = Budgets.load(config.budgets) if config.budgets else None

    def evict(self, view: LayerView) -> Mapping[int, Tensor] | None:
        if view.scale == len(view.schedule) - 1:
            return None
        held = {scale: keys.shape[1] for scale, (keys, _) in view.held.items()}
        budget = self._budget(view)
        if sum(held.values()) <= budget:
            return None
        window = observation_window(view.schedule.sizes[view.scale], self.config.window)
        importance = attention(view, window).sum(2).mean((0, 1))  # over the window; the mean over heads and pictures
        importance[sum(held.values()) - view.schedule.lengths[view.scale] + window] = math.inf
        stays = torch.zeros_like(importance, dtype=torch.bool)
        stays[importance.topk(budget).indices] = True
        return {
            scale: part.nonzero().T
            for scale, part in zip(held, stays.split(list(held.values())), strict=True)
            if not part.all()
        }

    def _budget(self, view: LayerView) -> int:
        if self.budgets is None:
            return uniform(view.schedule, self.config.share)
        made_for = self.budgets.schedule, len(self.budgets.tokens[0])
        if made_for != (str(view.schedule), view.depth):
            raise ConfigError(
                f"{self.config.budgets} is for the schedule {made_for[0]} and {made_for[1]} layers",
                expected=f"{view.schedule} and {view.depth} layers",
                hint="`cyclevar scalekv calibrate` makes one",
            )
        return self.budgets.tokens[view.scale][view.layer]


def observation_window(size: tuple[int, int], tokens: int) -> Tensor:
    """The middles of about ``tokens`` patches that a map of ``size`` is cut into, as places in its row-major order."""
    rows, columns = (
        (2 * torch.arange(count) + 1) * side // (2 * count)
        for side, count in ((side, min(side, max(1, math.isqrt(tokens)))) for side in size)
    )
    return (rows[:, None] * size[1] + columns).flatten()


def attention(view: LayerView, queries: Tensor) -> Tensor:
    """What the ``queries`` of the newest scale attend to among all held tokens: ``[B,H,queries,n]``, sums of 1."""
    keys = torch.cat([part for part, _ in view.held.values()], dim=1)
    logits = torch.einsum("bqhd,bkhd->bhqk", view.query[:, queries].float(), keys.float())
    return (logits * view.factor).softmax(-1)
