"""Name tables: our parameter names against the published ones, both ways, with a report of what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cyclevar.core.errors import CheckpointError

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class NameTable:
    """The published names of one module's parameters.

    ``names``: our name -> published name, shapes equal; or several published names, whose tensors of equal shape ours
    joins along its first axis. ``derived``: published name -> a function that computes a buffer which the published
    files carry and we do not keep; it is written on export and ignored on import. ``wrappers``: key paths under which
    published files nest the state dict.
    """

    names: Mapping[str, str | tuple[str, ...]]
    derived: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    wrappers: Sequence[Sequence[str]] = ()

    def to_ours(self, published: State, expected: State, *, what: str) -> dict[str, Tensor]:
        """Published tensors under our names, each held to the shape of ``expected`` (our state dict).

        Raises `CheckpointError` naming missing, unknown and misshapen keys.
        """
        shapes = {name: shape for ours in self.names for name, shape in self._parts(ours, expected[ours].shape)}
        missing = [name for name in shapes if name not in published]
        unknown = [name for name in published if name not in shapes and name not in self.derived]
        wrong = [
            f"{name} has {list(published[name].shape)}, expected {list(shape)}"
            for name, shape in shapes.items()
            if name in published and published[name].shape != shape
        ]
        check_keys(what, missing, unknown, wrong)
        return {
            ours: published[names] if isinstance(names, str) else torch.cat([published[name] for name in names])
            for ours, names in self.names.items()
        }

    def to_published(self, ours: State) -> dict[str, Tensor]:
        """Our tensors under the published names, with the buffers that the published loaders insist on."""
        state: dict[str, Tensor] = {}
        for name, published in self.names.items():
            if isinstance(published, str):
                state[published] = ours[name]
            else:
                parts = ours[name].chunk(len(published))
                state |= {part_name: part.clone() for part_name, part in zip(published, parts, strict=True)}
        return state | {name: make() for name, make in self.derived.items()}

    def _parts(self, ours: str, shape: torch.Size) -> list[tuple[str, torch.Size]]:
        """The published names and shapes of one of our tensors."""
        names = self.names[ours]
        if isinstance(names, str):
            return [(names, shape)]
        return [(name, torch.Size((shape[0] // len(names), *shape[1:]))) for name in names]


def check_keys(what: str, missing: list[str], unknown: list[str], wrong: list[str]) -> None:
    """Raise `CheckpointError` if any list is not empty, showing a few of each."""
    parts = [
        f"{title}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for title, names in (("missing keys", missing), ("unknown keys", unknown), ("wrong shapes", wrong))
        if names
    ]
    if parts:
        raise CheckpointError(
            f"{what} does not fit the model: {'; '.join(parts)}",
            hint="check that the preset (or the settings) and the file belong together",
        )


def strip_prefix(state: State, prefix: str) -> dict[str, Tensor]:
    """The part of a state dict under ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def scale_index(lengths: tuple[int, ...]) -> Tensor:
    """The scale of every token, int64 ``[1,L]``: a buffer of the published transformers."""
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]


def scale_causal_bias(lengths: tuple[int, ...]) -> Tensor:
    """0 where a token may look (its own scale or a coarser one), else -inf; float ``[1,1,L,L]``: a published buffer."""
    scale = scale_index(lengths)[0]
    blocked = scale[:, None] < scale[None, :]
    return torch.zeros(blocked.shape).masked_fill(blocked, -torch.inf)[None, None]
