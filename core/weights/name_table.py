"""Name tables: map our tensor names to published names, and check keys."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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
    published files nest the state dict. ``aliases``: another spelling of a published name -> that name. ``stale``:
    names that some files carry and nobody needs. ``fits``: published name -> a function that
    brings its tensor to a shape.
    """

    names: Mapping[str, str | tuple[str, ...]]
    derived: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    wrappers: Sequence[Sequence[str]] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    stale: Collection[str] = ()
    fits: Mapping[str, Callable[[Tensor, torch.Size], Tensor]] = field(default_factory=dict)

    def to_ours(
        self, published: State, expected: State, *, what: str, looks_like: Callable[[], str] = str
    ) -> dict[str, Tensor]:
        """Published tensors under our names, each held to the shape of ``expected`` (our state dict).

        Raises `CheckpointError` naming missing, unknown and misshapen keys, and what they ``looks_like`` instead.
        """
        shapes = self.shapes(expected)
        published = {self.aliases.get(name, name): tensor for name, tensor in published.items()}
        for name, fit in self.fits.items():
            if name in published:
                published[name] = fit(published[name], shapes[name])
        missing = [name for name in shapes if name not in published]
        unknown = [name for name in published if name not in {*shapes, *self.derived, *self.stale}]
        wrong = [
            f"{name} has {list(published[name].shape)}, expected {list(shape)}"
            for name, shape in shapes.items()
            if name in published and published[name].shape != shape
        ]
        check_keys(what, missing, unknown, wrong, looks_like)
        return {
            ours: published[names] if isinstance(names, str) else torch.cat([published[name] for name in names])
            for ours, names in self.names.items()
        }

    def shapes(self, expected: State) -> dict[str, torch.Size]:
        """Published name -> shape, for ``expected`` (our state dict)."""
        return {name: shape for ours in self.names for name, shape in self._parts(ours, expected[ours].shape)}

    def likeness(self, published: State, expected: State) -> float:
        """The share of all names that ``published`` and this table have in common, with equal shapes; at most 1."""
        given = {self.aliases.get(name, name): tensor.shape for name, tensor in published.items()}
        counted = {name: shape for name, shape in given.items() if name not in {*self.derived, *self.stale}}
        shapes = self.shapes(expected)
        fitting = sum(
            name in counted and (name in self.fits or counted[name] == shape) for name, shape in shapes.items()
        )
        return fitting / len(counted.keys() | shapes.keys())

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


def check_keys(
    what: str, missing: list[str], unknown: list[str], wrong: list[str], looks_like: Callable[[], str] = str
) -> None:
    """Raise `CheckpointError` if any list is not empty, showing a few of each, and what it ``looks_like`` instead."""
    parts = [
        f"{title}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for title, names in (("missing keys", missing), ("unknown keys", unknown), ("wrong shapes", wrong))
        if names
    ]
    if parts:
        other = looks_like()
        seems = f"; it looks like {other}" if other else ""
        raise CheckpointError(
            f"{what} does not fit the model: {'; '.join(parts)}{seems}",
            hint="check that the preset (or the settings) and the file belong together",
        )


def strip_prefix(state: State, prefix: str) -> dict[str, Tensor]:
    """The part of a state dict under ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class OfficialFormat:
    """How a family's published files name their tensors."""

    tokenizer: NameTable
    backbone: NameTable
