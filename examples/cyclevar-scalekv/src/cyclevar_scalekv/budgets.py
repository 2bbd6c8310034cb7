"""How many tokens each layer keeps (ScaleKV Sec. 3.3): drafters look far back and get more, refiners get less."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from cyclevar.core.errors import ConfigError
from cyclevar.core.runtime.files import save_text
from cyclevar.core.schedule import ScaleSchedule

REFINERS, DECAY = 0.92, 0.11
"""A refiner's budget at the first compressed scale, and what it loses at each one after, in uniform budgets.

The paper's 600 of 650 tokens, and 70 of 650.
"""


@dataclass(frozen=True)
class Budgets:
    """``tokens[k][l]``: what layer ``l`` keeps after scale ``k``; ``drafters[k][l]``: if it is one for the next."""

    schedule: str
    share: float
    tokens: Sequence[Sequence[int]]
    drafters: Sequence[Sequence[bool]]

    def save(self, path: Path) -> None:
        save_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Budgets:
        """Raises `ConfigError` for a file that `save` did not write."""
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            hint = "`cyclevar scalekv calibrate` makes one"
            raise ConfigError(f"cannot read {path}: {error}", expected="a file of budgets", hint=hint) from error


def uniform(schedule: ScaleSchedule, share: float) -> int:
    """Tokens that a layer keeps where all keep the same: ``share`` of those before the last scale."""
    return max(1, int(share * (schedule.total - schedule.lengths[-1])))


def allot(selectivity: Tensor, schedule: ScaleSchedule, share: float, drafters: float) -> Budgets:
    """Budgets from the attention selectivity index ``[K,depth]`` (Eq. 2) of every scale and layer.

    The ``drafters`` share of all pairs of a scale and a layer with the lowest index, as a z-score within its scale, are
    drafters (Eq. 3). At every scale all layers together keep what they would with equal budgets (Eq. 4).
    """
    depth, equal = selectivity.shape[1], uniform(schedule, share)
    seen = selectivity[1:]  # the first scale has no history
    scores = (seen - seen.mean(1, keepdim=True)) / (seen.std(1, keepdim=True) + 1e-9)
    bound = scores.flatten().sort().values[max(0, round(drafters * scores.numel()) - 1)]
    drafting = scores <= bound if round(drafters * scores.numel()) else torch.zeros_like(scores, dtype=torch.bool)
    tokens, compressed = [], 0
    for scale, far in enumerate(drafting):
        there = schedule.spans[scale][1]
        compressed += there > equal
        lesser = equal if not far.any() else max(1, int(equal * (REFINERS - DECAY * (compressed - 1))))
        saved = (equal - lesser) * int((~far).sum())
        more = equal + saved // max(1, int(far.sum()))
        tokens.append([min(more if one else lesser, there) if there > equal else there for one in far.tolist()])
    assert len(tokens) == len(schedule) - 1
    assert all(len(row) == depth for row in tokens)
    return Budgets(str(schedule), share, tokens, drafting.tolist())
