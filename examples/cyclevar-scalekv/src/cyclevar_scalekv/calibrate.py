"""Which layers are drafters and which refiners, found on a few pictures that the model draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cyclevar.core.attention.cache import CachePolicy, KeyValueCache, LayerView
from cyclevar.core.errors import ConfigError
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.generation import generate
from cyclevar.core.next_scale.pyramid import teacher_inputs
from cyclevar_scalekv.budgets import Budgets, allot
from cyclevar_scalekv.policy import attention, observation_window

QUERIES = 64
"""Of a scale, spread over its map, that stand for all of them."""


class Selectivity(CachePolicy):
    """Drops nothing, but notes the attention selectivity index ``[K,depth]`` of every scale and layer (Eq. 2)."""

    def __init__(self, scales: int, depth: int, top: int) -> None:
        self.index, self.top = torch.zeros(scales, depth), top

    def evict(self, view: LayerView) -> Mapping[int, Tensor] | None:
        own = view.key.shape[1]
        weights = attention(view, observation_window(view.schedule.sizes[view.scale], QUERIES))
        current, history = weights[..., -own:].sum(-1), weights[..., :-own]
        top = history.topk(min(self.top, history.shape[-1])).values.sum(-1)
        self.index[view.scale, view.layer] += (current.mean() * top.mean()).cpu()
        return None


@torch.no_grad()
def calibrate(
    model: Model,
    targets: Sequence[int | str],
    *,
    share: float = 0.1,
    drafters: float = 0.25,
    top: int = 16,
    seed: int = 0,
) -> Budgets:
    """Budgets for ``model``, from one picture of each target.

    ``share`` of the cache before the last scale, for all layers together; ``drafters``: share of the layers and scales;
    ``top``: tokens of the history that make up its concentration. Raises `ConfigError` for a backbone whose cache takes
    no policy.
    """
    if "cache_policy" not in model.backbone.capabilities:
        raise ConfigError(f"the backbone of {model.family} lacks the capability 'cache_policy'")
    schedule = model.schedule
    found = Selectivity(len(schedule), model.backbone.depth, top)
    for number, target in enumerate(targets):
        condition = model.backbone.condition([target])
        drawn = generate(model, condition, seed=seed, samples=[number])
        maps = [model.tokenizer.quantizer.lookup(codes).movedim(-1, 1) for codes in drawn.codes]
        cache = KeyValueCache(model.backbone.depth, schedule, policy=found)
        for scale, part in enumerate(teacher_inputs(model.tokenizer, maps, schedule)):
            model.backbone([part], condition, schedule, first=scale, cache=cache)
    return allot(found.index / len(targets), schedule, share, drafters)
