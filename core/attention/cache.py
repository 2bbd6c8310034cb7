"""Keys and values of the scales that were already computed, and who may drop some of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclevar.core.attention.plan import AttentionPlan, Visibility
from cyclevar.core.errors import ConfigError
from cyclevar.core.schedule import ScaleSchedule


@dataclass(frozen=True)
class LayerView:
    """What one layer has just attended with.

    ``query``, ``key``, ``value`` of scale ``scale``, ``[B,l,H,D]``, as they meet: normalised, scaled and rotated;
    ``factor`` multiplies their products to logits. ``held``: keys and values ``[B,n,H,D]`` of every scale in the
    cache of this layer, this scale the last of them.
    """

    layer: int
    depth: int
    schedule: ScaleSchedule
    scale: int
    query: Tensor
    key: Tensor
    value: Tensor
    factor: float
    held: Mapping[int, tuple[Tensor, Tensor]]


class CachePolicy(ABC):
    """Decides which tokens a cache keeps. Needs a backbone with the capability ``cache_policy``."""

    @abstractmethod
    def evict(self, view: LayerView) -> Mapping[int, Tensor] | None:
        """Of the scales that lose tokens, which stay: int64 ``[B or 1,n']``, rising, into those held; None for all.

        Called for every layer after the attention of every scale. The choice may differ from picture to picture and
        from layer to layer, but not from head to head.
        """


class KeyValueCache:
    """One pair of buffers a layer, allocated once.

    Keeps only the scales that a later one can see; what nothing will look back at is not stored at all. With gradients
    enabled, or with a ``policy`` that drops tokens, the tensors are concatenated instead of written in place.
    """

    def __init__(
        self,
        depth: int,
        schedule: ScaleSchedule,
        visibility: Visibility | None = None,
        policy: CachePolicy | None = None,
        prefix: int = 0,
    ) -> None:
        """``prefix`` tokens stand before the first scale and belong to it."""
        self.schedule, self.policy = schedule, policy
        self._lengths = (schedule.lengths[0] + prefix, *schedule.lengths[1:])
        self.visibility = visibility or Visibility.causal(len(schedule))
        self.kept: tuple[int, ...] = ()
        self._next = 0
        self._layers: list[tuple[Tensor, Tensor] | None] = [None] * depth
        self._counts: list[dict[int, int]] = [{} for _ in range(depth)]
        """Tokens held of every scale, in the order in which they lie in the layer's tensors."""

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values ``[B,kept+l,H,D]`` of a layer: the kept ones, then the given ``[B,l,H,D]``."""
        held, counts = self._layers[layer], self._counts[layer]
        length = sum(counts.values())
        coming = self._coming(key.shape[1])
        if not length and not any(self.visibility.needed_after(coming[-1])):
            return key, value
        end = length + key.shape[1]
        self._counts[layer] = counts | {scale: self._lengths[scale] for scale in coming}
        if torch.is_grad_enabled() or self.policy:
            if held is not None and length:
                key = torch.cat([held[0][:, :length], key], dim=1)
                value = torch.cat([held[1][:, :length], value], dim=1)
            self._layers[layer] = (key, value)
            return key, value
        if held is None or held[0].shape[1] < end:
            held = self._grown(held, key, value, max(self._most(), end))
            self._layers[layer] = held
        held[0][:, length:end] = key
        held[1][:, length:end] = value
        return held[0][:, :end], held[1][:, :end]

    def plan(self, layer: int, plan: AttentionPlan) -> AttentionPlan:
        """The plan of a call, for the tokens that are left in this layer."""
        if self.policy is None:
            return plan
        whole, left = {0: 0}, 0
        for scale in self.kept:
            left += self._counts[layer][scale]
            whole[max(whole) + self._lengths[scale]] = left
        missing = max(whole) - left
        return plan if not missing else plan.moved(lambda place: whole.get(place, place - missing))

    def settle(self, layer: int, query: Tensor, factor: float) -> None:
        """Let the policy drop tokens of a layer that has just attended with ``query``; see `LayerView`."""
        held = self._layers[layer]
        if self.policy is None or held is None:
            return
        *before, scale = self._counts[layer]
        if scale != self._next or scale in self.kept:
            raise ConfigError("a cache policy works scale by scale", expected="one scale a call of the backbone")
        parts = dict(zip((*before, scale), self._split(layer), strict=True))
        key, value = parts[scale]
        view = LayerView(layer, len(self._layers), self.schedule, scale, query, key, value, factor, parts)
        staying = self.policy.evict(view)
        if staying:
            parts |= {one: _chosen(parts[one], rows) for one, rows in staying.items()}
            self._counts[layer] = {one: part[0].shape[1] for one, part in parts.items()}
            self._layers[layer] = (
                torch.cat([part[0] for part in parts.values()], dim=1),
                torch.cat([part[1] for part in parts.values()], dim=1),
            )

    def commit(self, scales: range) -> None:
        """Take the scales that every layer was just extended by as done; forget what no later scale can see."""
        needed = self.visibility.needed_after(scales[-1])
        for layer, counts in enumerate(self._counts):
            if not all(needed[scale] for scale in counts):
                self._forget(layer, needed)
        self.kept = tuple(scale for scale in (*self.kept, *scales) if needed[scale])
        self._next = scales[-1] + 1

    def select(self, rows: Tensor) -> None:
        """Go on with the pictures ``rows`` (int64) of the batch, in that order; one may be there twice."""
        for layer, held in enumerate(self._layers):
            if held is not None:
                self._layers[layer] = (held[0][rows], held[1][rows])

    def tokens(self) -> list[int]:
        """Tokens that are held, a layer."""
        return [sum(counts.values()) for counts in self._counts]

    def nbytes(self) -> int:
        """Bytes of the tokens that are held."""
        return sum(
            count * part[:, 0].nbytes
            for count, held in zip(self.tokens(), self._layers, strict=True)
            for part in held or ()
            if count
        )

    def _coming(self, length: int) -> range:
        """The scales that ``length`` new tokens are of."""
        end = self._next
        while length > 0:
            length -= self._lengths[end]
            end += 1
        return range(self._next, end)

    def _most(self) -> int:
        """The most tokens that are there at a time when the scales come one by one."""
        lengths, scales = self._lengths, range(len(self.schedule))
        held = [(), *(tuple(k for k in range(done + 1) if self.visibility.needed_after(done)[k]) for done in scales)]
        return max(sum(lengths[k] for k in held[scale]) + lengths[scale] for scale in scales)

    def _grown(
        self, held: tuple[Tensor, Tensor] | None, key: Tensor, value: Tensor, capacity: int
    ) -> tuple[Tensor, Tensor]:
        """Buffers for ``capacity`` tokens that begin with what is held."""
        grown = tuple(one.new_empty(one.shape[0], capacity, *one.shape[2:]) for one in (key, value))
        for new, old in zip(grown, held or (), strict=False):
            new[:, : old.shape[1]] = old
        return grown[0], grown[1]

    def _split(self, layer: int) -> list[tuple[Tensor, Tensor]]:
        held, counts = self._layers[layer], list(self._counts[layer].values())
        assert held is not None
        keys, values = (part[:, : sum(counts)].split(counts, dim=1) for part in held)
        return list(zip(keys, values, strict=True))

    def _forget(self, layer: int, needed: tuple[bool, ...]) -> None:
        """Move the scales that are still needed to the front, in the same buffers where no gradient is recorded."""
        parts = dict(zip(self._counts[layer], self._split(layer), strict=True))
        staying = [part for scale, part in parts.items() if needed[scale]]
        self._counts[layer] = {scale: count for scale, count in self._counts[layer].items() if needed[scale]}
        held = self._layers[layer]
        assert held is not None
        if not staying:
            if torch.is_grad_enabled() or self.policy:
                self._layers[layer] = None
            return
        key, value = (torch.cat([part[side] for part in staying], dim=1) for side in (0, 1))
        if torch.is_grad_enabled() or self.policy:
            self._layers[layer] = (key, value)
        else:
            held[0][:, : key.shape[1]] = key
            held[1][:, : value.shape[1]] = value


def _chosen(part: tuple[Tensor, Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens ``rows [B or 1,n']`` of keys and values ``[B,n,H,D]``."""
    keys, values = part
    index = rows.to(keys.device)[:, :, None, None].expand(len(keys), -1, *keys.shape[2:])
    return keys.gather(1, index), values.gather(1, index.expand(-1, -1, *values.shape[2:]))
