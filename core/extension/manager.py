"""The plugin manager: finds plugins, loads them one by one, and keeps a broken one from stopping the rest.

cyclevar's own parts come through the same entry points as a stranger's. ``CYCLEVAR_PLUGINS=a,b`` loads no other
plugins than ``a`` and ``b`` beside them; ``CYCLEVAR_PLUGINS=`` (empty) none, and so does ``cyclevar --no-plugins``.
A plugin whose distribution requires another version of cyclevar is not loaded.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import Distribution, EntryPoint
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from cyclevar.core.config.base import validate
from cyclevar.core.errors import ConfigError, CyclevarError, PluginError, UnknownNameError, nearest
from cyclevar.core.extension import hookspecs
from cyclevar.core.extension.hookspecs import PROJECT
from cyclevar.core.extension.registry import Entry, Registry

Subject = TypeVar("Subject")

SWITCH = "CYCLEVAR_PLUGINS"
"""The environment variable that names the plugins to load."""


@dataclass(frozen=True)
class Plugin:
    """A plugin that works: the name of its entry point, where it comes from, its hooks and what it registered.

    ``file``: of its module, "" where there is none.
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]
    registered: tuple[Entry, ...]
    file: str = ""


@dataclass(frozen=True)
class Failure:
    """A plugin that was left out, since it is broken or switched off: why, and what the user can do."""

    name: str
    distribution: str
    reason: str
    way_out: str

    def __str__(self) -> str:
        return f"plugin {self.name} ({self.distribution}) was left out: {self.reason}; {self.way_out}"


class Manager:
    """The loaded plugins.

    ``entry_points``: what to load. ``enabled``: names of the plugins to load beside cyclevar's own; None loads all.

    ``plugins``, ``failures`` and ``disabled`` say what became of each; ``registry`` holds the parts.
    """

    def __init__(self, entry_points: Iterable[EntryPoint], enabled: Collection[str] | None = None) -> None:
        self.registry = Registry()
        self.plugins: list[Plugin] = []
        self.failures: list[Failure] = []
        self.disabled: list[Failure] = []
        self._pluggy = pluggy.PluginManager(PROJECT)
        self._pluggy.add_hookspecs(hookspecs)
        found = sorted(entry_points, key=lambda point: (not _built_in(point), point.name, _distribution(point)))
        for point in found:
            if enabled is None or _built_in(point) or point.name in enabled:
                self._load(point)
            else:
                reason = f"{SWITCH} does not name it" if enabled else f"{SWITCH} is empty, or --no-plugins was given"
                self.disabled.append(Failure(point.name, _titled(point), reason, f"name it in {SWITCH}, or unset that"))
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

    def gather(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        """What the plugins answer, in order, by their names; those that return None are left out.

        Raises PluginError naming the plugin when an implementation fails.
        """
        answers = [(one.plugin_name, _run(hook, one, arguments)) for one in self._implementations(hook)]
        return [(name, answer) for name, answer in answers if answer is not None]

    def first(self, hook: str, **arguments: Any) -> Any:
        """The first answer that is not None; None where there is none. Raises PluginError as `gather` does."""
        for implementation in self._implementations(hook):
            answer = _run(hook, implementation, arguments)
            if answer is not None:
                return answer
        return None

    def build(self, kind: str, name: str, settings: Mapping[str, Any], *arguments: Any) -> Any:
        """A registered part: its factory called with ``arguments`` and, where the part has any, its settings.

        Raises UnknownNameError for an unknown name or setting, ConfigError for a wrong one.
        """
        entry = self.registry.get(kind, name)
        config_class = entry.load_config()
        if config_class is not None:
            return entry.load()(*arguments, validate(config_class, settings))
        if settings:
            raise ConfigError(f"the {kind} {name!r} has no setting {next(iter(settings))!r}", expected="none")
        return entry.load()(*arguments)

    def call(self, plugin: Plugin, hook: str, **arguments: Any) -> None:
        """Call one hook of one plugin, if it has it. Raises PluginError when it fails."""
        for implementation in self._implementations(hook):
            if implementation.plugin_name == plugin.name:
                _run(hook, implementation, arguments)

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """In the order of loading, but those marked ``tryfirst`` before and those marked ``trylast`` after the rest."""
        implementations: list[pluggy.HookImpl] = getattr(self._pluggy.hook, hook).get_hookimpls()
        return sorted(implementations, key=lambda one: one.trylast - one.tryfirst)

    def add(self, module: ModuleType) -> None:
        """Load a plugin that is not installed: a module with hooks, by its name. Raises what is wrong with it."""
        name = module.__name__
        self._refuse_taken(name)
        self._add(module, Plugin(name, "not installed", "", _hooks(module), ()), f"plugin {name} (not installed)")

    def remove(self, name: str) -> None:
        """Forget a plugin and its parts."""
        [plugin] = [plugin for plugin in self.plugins if plugin.name == name]
        self._pluggy.unregister(name=name)
        self.registry.remove(plugin.registered)
        self.plugins.remove(plugin)

    def _load(self, point: EntryPoint) -> None:
        distribution = _titled(point)
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
        self._refuse_taken(point.name)
        _refuse_other_versions(point)
        module = point.load()
        file = getattr(module, "__file__", None) or ""
        self._add(module, Plugin(point.name, _distribution(point), _version(point), _hooks(module), (), file), owner)

    def _refuse_taken(self, name: str) -> None:
        for plugin in self.plugins:
            if plugin.name == name:
                raise PluginError(
                    f"the plugin name {name!r} is already taken by {plugin.distribution}",
                    hint="uninstall one of the two",
                )

    def _add(self, module: object, plugin: Plugin, owner: str) -> None:
        added = Registry(owner)
        try:
            self._pluggy.register(module, name=plugin.name)
            self._pluggy.check_pending()
            self.call(plugin, "cyclevar_register", registry=added)
            self.registry.merge(added)
        except Exception:
            if self._pluggy.has_plugin(plugin.name):
                self._pluggy.unregister(name=plugin.name)
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


@contextlib.contextmanager
def trying(name: str, *hooks: Callable[..., Any]) -> Iterator[None]:
    """With a plugin of these hooks for as long as the block runs: to try one, or to test one, without installing it.

    ``hooks`` are functions marked with ``@hookimpl``. Raises what is wrong with them.
    """
    module = ModuleType(name)
    for hook in hooks:
        setattr(module, hook.__name__, hook)
    manager = get_manager()
    manager.add(module)
    try:
        yield
    finally:
        manager.remove(name)


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


def required_versions(distribution: Distribution) -> str | None:
    """Which versions of cyclevar a distribution declares that it needs, as ``<0.2,>=0.1``; None where it does not say.

    "" stands for any. Raises `PluginError` for a declaration that cannot be read.
    """
    lines = [line for line in distribution.requires or () if line.lower().startswith(PROJECT)]
    if not lines:
        return None

    from packaging.requirements import InvalidRequirement, Requirement  # here: it costs 15 ms

    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            problem = f"its requirement {line!r} cannot be read: {error}"
            raise PluginError(problem, expected=f"such as '{PROJECT}>=0.1,<0.2'") from None
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if requirement.name.lower() == PROJECT and applies:
            return str(requirement.specifier)
    return None


def _refuse_other_versions(point: EntryPoint) -> None:
    """Raise `PluginError` for a plugin that needs another version of cyclevar than this."""
    if point.dist is None or _built_in(point):
        return
    wanted, own = required_versions(point.dist), importlib.metadata.version(PROJECT)
    if not wanted:
        return

    from packaging.specifiers import SpecifierSet

    if not SpecifierSet(wanted).contains(own, prereleases=True):
        raise PluginError(
            f"it needs {PROJECT} {wanted}, and this is {own}",
            hint=f"install a release of {point.dist.name} that fits, or {PROJECT} {wanted}",
        )


def _built_in(point: EntryPoint) -> bool:
    return _distribution(point) == PROJECT


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown distribution"


def _titled(point: EntryPoint) -> str:
    return f"{_distribution(point)} {_version(point)}".strip()


def _version(point: EntryPoint) -> str:
    return point.dist.version if point.dist else ""
