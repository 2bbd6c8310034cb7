"""Keys and values of the scales that were already computed."""

from __future__ import annotations

import torch
from torch import Tensor

from cyclevar.core.attention import Visibility
from cyclevar.core.schedule import ScaleSchedule


class KeyValueCache:
    """One pair of buffers a layer, allocated once for the whole schedule.

    Keeps only the scales that a later one can see. With gradients enabled the tensors are concatenated instead of
    written in place, so that a serial pass can be differentiated.
    """

    def __init__(self, depth: int, schedule: ScaleSchedule, visibility: Visibility | None = None) -> None:
        self.schedule = schedule
        self.visibility = visibility or Visibility.causal(len(schedule))
        self.kept: tuple[int, ...] = ()
        self._length = 0
        self._layers: list[tuple[Tensor, Tensor] | None] = [None] * depth

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values ``[B,kept+l,H,D]`` of a layer: the kept ones, then the given ``[B,l,H,D]``."""
        held = self._layers[layer]
        if torch.is_grad_enabled():
            if held is not None and self._length:
                key = torch.cat([held[0][:, : self._length], key], dim=1)
                value = torch.cat([held[1][:, : self._length], value], dim=1)
            self._layers[layer] = (key, value)
            return key, value
        end = self._length + key.shape[1]
        if held is None:
            batch, _, heads, width = key.shape
            held = (
                key.new_empty(batch, self.schedule.total, heads, width),
                value.new_empty(batch, self.schedule.total, heads, width),
            )
            self._layers[layer] = held
        held[0][:, self._length : end] = key
        held[1][:, self._length : end] = value
        return held[0][:, :end], held[1][:, :end]

    def commit(self, scales: range) -> None:
        """Take the scales that every layer was just extended by as done; forget what no later scale can see."""
        present = (*self.kept, *scales)
        needed = self.visibility.needed_after(scales[-1])
        keep = [scale for scale in present if needed[scale]]
        if len(keep) < len(present):
            index, begin = [], 0
            for scale in present:
                length = self.schedule.lengths[scale]
                if needed[scale]:
                    index.append(torch.arange(begin, begin + length))
                begin += length
            rows = torch.cat(index) if index else torch.empty(0, dtype=torch.int64)
            for layer, held in enumerate(self._layers):
                if held is not None:
                    self._layers[layer] = (self._compact(held[0], rows), self._compact(held[1], rows))
        self.kept = tuple(keep)
        self._length = sum(self.schedule.lengths[scale] for scale in keep)

    def _compact(self, held: Tensor, rows: Tensor) -> Tensor:
        """The chosen rows moved to the front, in the same buffer where no gradient is recorded."""
        chosen = held[:, rows.to(held.device)]
        if torch.is_grad_enabled():
            return chosen
        held[:, : len(rows)] = chosen
        return held
