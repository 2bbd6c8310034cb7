"""The plugin manager: finds plugins, loads them one by one, and keeps a broken one from stopping the rest.

cyclevar's own parts come through the same entry points as a stranger's. ``CYCLEVAR_PLUGINS=a,b`` loads no other
plugins than ``a`` and ``b`` beside them; ``CYCLEVAR_PLUGINS=`` (empty) none.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from typing import Any, TypeVar

import pluggy

from cyclevar.core import hookspecs
from cyclevar.core.errors import CyclevarError, PluginError, UnknownNameError, nearest
from cyclevar.core.hookspecs import PROJECT
from cyclevar.core.registry import Entry, Registry

Subject = TypeVar("Subject")

SWITCH = "CYCLEVAR_PLUGINS"
"""The environment variable that names the plugins to load."""


@dataclass(frozen=True)
class Plugin:
    """A plugin that works: the name of its entry point, where it comes from, its hooks and what it registered."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]
    registered: tuple[Entry, ...]


@dataclass(frozen=True)
class Failure:
    """A plugin that was left out: why, and what the user can do."""

    name: str
    distribution: str
    reason: str
    way_out: str

    def __str__(self) -> str:
        return f"plugin {self.name} ({self.distribution}) was left out: {self.reason}; {self.way_out}"


class Manager:
    """The loaded plugins.

    ``entry_points``: what to load. ``enabled``: names of the plugins to load beside cyclevar's own; None loads all.

    ``plugins``, ``failures`` and ``disabled`` (names) say what became of each; ``registry`` holds the parts.
    """

    def __init__(self, entry_points: Iterable[EntryPoint], enabled: Collection[str] | None = None) -> None:
        self.registry = Registry()
        self.plugins: list[Plugin] = []
        self.failures: list[Failure] = []
        self.disabled: list[str] = []
        self._pluggy = pluggy.PluginManager(PROJECT)
        self._pluggy.add_hookspecs(hookspecs)
        found = sorted(entry_points, key=lambda point: (not _built_in(point), point.name, _distribution(point)))
        for point in found:
            if enabled is None or _built_in(point) or point.name in enabled:
                self._load(point)
            else:
                self.disabled.append(point.name)
        names = [point.name for point in found]
        for name in sorted(set(enabled or ()).difference(names)):
            way_out = nearest(name, names) or f"correct {SWITCH} or install the plugin"
            self.failures.append(Failure(name, "not installed", f"{SWITCH} names it", way_out))

    def fold(self, hook: str, subject: Subject, **others: Any) -> Subject:
        """Pass ``subject``, the hook's first argument, through every plugin in order; each may return another one.

        Raises PluginError naming the plugin when an implementation fails.
        """
        first = getattr(self._pluggy.hook, hook).spec.argnames[0]
        for implementation in self._implementations(hook):
            result = _run(hook, implementation, {first: subject, **others})
            subject = subject if result is None else result
        return subject

    def call(self, plugin: Plugin, hook: str, **arguments: Any) -> None:
        """Call one hook of one plugin, if it has it. Raises PluginError when it fails."""
        for implementation in self._implementations(hook):
            if implementation.plugin_name == plugin.name:
                _run(hook, implementation, arguments)

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """In the order of loading, but those marked ``tryfirst`` before and those marked ``trylast`` after the rest."""
        implementations: list[pluggy.HookImpl] = getattr(self._pluggy.hook, hook).get_hookimpls()
        return sorted(implementations, key=lambda one: one.trylast - one.tryfirst)

    def _load(self, point: EntryPoint) -> None:
        distribution = f"{_distribution(point)} {_version(point)}".strip()
        try:
            self._register(point, owner=f"plugin {point.name} ({distribution})")
        except Exception as error:  # whatever a stranger's code raises must not stop the others
            reason, way_out = f"{type(error).__name__}: {error}", ""
            if isinstance(error, CyclevarError):
                expected = f"; expected {error.expected}" if error.expected else ""
                reason, way_out = error.problem + expected, error.hint
            if not way_out:
                default = f"repair it, uninstall {_distribution(point)}, or leave it out with {SWITCH}"
                way_out = "install cyclevar again" if _built_in(point) else default
            self.failures.append(Failure(point.name, distribution, " ".join(reason.split()), way_out))

    def _register(self, point: EntryPoint, owner: str) -> None:
        for plugin in self.plugins:
            if plugin.name == point.name:
                raise PluginError(
                    f"the plugin name {point.name!r} is already taken by {plugin.distribution}",
                    hint="uninstall one of the two",
                )
        module = point.load()
        hooks = _hooks(module)
        plugin = Plugin(point.name, _distribution(point), _version(point), hooks, ())
        added = Registry(owner)
        try:
            self._pluggy.register(module, name=point.name)
            self._pluggy.check_pending()
            self.call(plugin, "cyclevar_register", registry=added)
            self.registry.merge(added)
        except Exception:
            if self._pluggy.has_plugin(point.name):
                self._pluggy.unregister(name=point.name)
            raise
        self.plugins.append(replace(plugin, registered=added.entries()))


@functools.cache
def get_manager() -> Manager:
    """The plugins of this process, loaded on the first call; failures go to the log of ``cyclevar``, a line each.

    Raises PluginError when cyclevar itself is not installed, since its own parts are found as everyone else's.
    """
    try:
        importlib.metadata.distribution(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        raise PluginError(
            "cyclevar is imported from a folder without being installed, so its parts cannot be found",
            hint="run `pip install -e .` in its repository",
        ) from None
    names = os.environ.get(SWITCH)
    enabled = None if names is None else {name.strip() for name in names.split(",") if name.strip()}
    manager = Manager(importlib.metadata.entry_points(group=PROJECT), enabled)
    for failure in manager.failures:
        logging.getLogger(__name__).warning("%s", failure)
    return manager


def _hooks(module: object) -> tuple[str, ...]:
    """The hooks that a plugin implements. Raises PluginError for a misspelt or unmarked one, and for a wrapper."""
    known = [name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")]
    hooks = []
    for name, function in inspect.getmembers(module, inspect.isroutine):
        marks = getattr(function, f"{PROJECT}_impl", None)
        if marks is None and not name.startswith(f"{PROJECT}_"):
            continue
        hook = (marks and marks.get("specname")) or name
        if hook not in known:
            raise UnknownNameError("hook", hook, known)
        if marks is None:
            raise PluginError(f"its function {name} is not marked", hint="put @hookimpl above it")
        if marks.get("wrapper") or marks.get("hookwrapper"):
            raise PluginError(f"its function {name} is a wrapper", expected="a plain function")
        hooks.append(hook)
    return tuple(hooks)


def _run(hook: str, implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
    try:
        return implementation.function(*(arguments[name] for name in implementation.argnames))
    except CyclevarError:
        raise
    except Exception as error:
        raise PluginError(
            f"plugin {implementation.plugin_name} failed in {hook}: {type(error).__name__}: {error}",
            hint=f"repair it, uninstall it, or leave it out with {SWITCH}",
        ) from error


def _built_in(point: EntryPoint) -> bool:
    return _distribution(point) == PROJECT


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown distribution"


def _version(point: EntryPoint) -> str:
    return point.dist.version if point.dist else ""
