"""The registry: kind and name -> a part, described without building it or importing torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from cyclevar.core.errors import PluginError, UnknownNameError

Reference = str | Callable[..., Any]
"""Something callable, or where to find it: ``"package.module:attribute"``, imported when first needed."""

KINDS = {
    "backbone": "a family of models: tokenizer, transformer and presets; factory(config) -> Model",
    "generator": "a network that translates pictures without tokens; factory(config) -> DirectModel",
    "quantizer": "vectors to codes and back, hard or soft; factory(channels) -> Quantizer",
    "discriminator": "judges whether pictures belong to a domain; the factory gives a Discriminator",
    "loss": "a distance between pictures and what they should be; the factory gives a PictureLoss",
    "metric": "a figure of the evaluation, asked for by its name; the factory gives a PictureMetric",
    "dataset": "pictures of two domains; the factory gives an UnpairedDataset",
    "tokenizer": "pictures to latents and back, scale by scale; the factory gives a Tokenizer",
    "visibility": "which tokens see which; factory(schedule) -> Visibility",
    "cache_policy": "which tokens the key-value cache keeps; the factory gives a CachePolicy",
    "decoder": "makes pictures of latents in the place of the tokenizer's; factory(model) -> a Tokenizer.decode",
    "callback": "acts while a model runs or is trained; the factory gives a Callback",
}
"""The kinds of parts and what each is. A part with settings gets them as the last argument of its factory."""


@dataclass(frozen=True)
class Entry:
    """A registered part. ``owner`` names the plugin that brought it; ``presets`` are names its configuration knows."""

    kind: str
    name: str
    summary: str
    owner: str
    factory: Reference
    config: Reference | None = None
    presets: tuple[str, ...] = ()

    def load(self) -> Callable[..., Any]:
        """The factory, imported now. Raises PluginError when it cannot be imported."""
        return self._resolve(self.factory)

    def load_config(self) -> type[Any] | None:
        """The configuration class, imported now; None when the part has no settings."""
        return None if self.config is None else cast(type[Any], self._resolve(self.config))

    def _resolve(self, reference: Reference) -> Callable[..., Any]:
        if not isinstance(reference, str):
            return reference
        module, _, attribute = reference.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise PluginError(
                f"the {self.kind} {self.name!r} of {self.owner} cannot be loaded from {reference!r}: {error}",
                expected='"package.module:attribute"',
                hint="repair or uninstall that plugin",
            ) from error
        if not callable(found):
            raise PluginError(
                f"the {self.kind} {self.name!r} of {self.owner} cannot be used: {reference!r} is {found!r}",
                expected="a function or a class",
            )
        return cast(Callable[..., Any], found)


class Registry:
    """Every part by kind and name. ``owner`` stands in the entries that are added without one."""

    def __init__(self, owner: str = "the program") -> None:
        self.owner = owner
        self._entries: dict[tuple[str, str], Entry] = {}

    def add(
        self,
        kind: str,
        name: str,
        factory: Reference,
        *,
        summary: str,
        config: Reference | None = None,
        presets: Iterable[str] = (),
        owner: str | None = None,
    ) -> None:
        """Describe a part; nothing is imported or built. ``summary`` is one line.

        Raises PluginError when the kind has that name already (both owners are named), UnknownNameError for a kind
        that does not exist.
        """
        if kind not in KINDS:
            raise UnknownNameError("kind of part", kind, KINDS)
        self._put(Entry(kind, name, summary, owner or self.owner, factory, config, tuple(presets)))

    def merge(self, other: Registry) -> None:
        """Take over all entries of ``other``, or none where one of them clashes."""
        for entry in other.entries():
            self._refuse_taken(entry)
        self._entries.update(other._entries)

    def remove(self, entries: Iterable[Entry]) -> None:
        """Forget these entries."""
        for entry in entries:
            del self._entries[entry.kind, entry.name]

    def get(self, kind: str, name: str) -> Entry:
        """The entry of that kind and name. Raises UnknownNameError with the nearest and all known names."""
        names = self.names(kind)
        if name not in names:
            raise UnknownNameError(kind, name, names, hint="`cyclevar plugins` lists every part")
        return self._entries[kind, name]

    def names(self, kind: str) -> tuple[str, ...]:
        """The registered names of a kind, in the order of registration."""
        return tuple(entry.name for entry in self.entries(kind))

    def entries(self, kind: str | None = None) -> tuple[Entry, ...]:
        """The entries of one kind, or all of them, in the order of registration."""
        if kind is not None and kind not in KINDS:
            raise UnknownNameError("kind of part", kind, KINDS)
        return tuple(entry for entry in self._entries.values() if kind in (None, entry.kind))

    def _put(self, entry: Entry) -> None:
        self._refuse_taken(entry)
        self._entries[entry.kind, entry.name] = entry

    def _refuse_taken(self, entry: Entry) -> None:
        taken = self._entries.get((entry.kind, entry.name))
        if taken is not None:
            raise PluginError(
                f"the {entry.kind} {entry.name!r} of {entry.owner} is already registered by {taken.owner}",
                hint="rename one of the two, or uninstall one of the plugins",
            )
