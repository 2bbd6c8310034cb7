"""Writing a new plugin: a package with one part that works, its tests and what surrounds them. Torch-free."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.extension.hookspecs import PROJECT
from cyclevar.core.extension.manager import Failure, Manager, Plugin, get_manager

LONGEST = 20
"""Characters of a name: longer ones break the lines of the templates."""


@dataclass(frozen=True)
class Kind:
    """What is written for a kind of part: its ``summary``, and the command that uses it."""

    summary: str
    usage: str


KINDS: Mapping[str, Kind] = {
    "backbone": Kind(
        "A transformer that places tokens by row and column",
        "cyclevar pretrain --backbone {name} --stage tokenizer --steps 20 --set tokenizer.autoencoder_steps=5",
    ),
    "quantizer": Kind(
        "Every channel rounded to one of a few levels",
        "cyclevar pretrain --stage tokenizer --set model.tokenizer.quantizer={name}",
    ),
    "discriminator": Kind("Spectral-norm patches from scratch", "cyclevar train --discriminator {name}"),
    "loss": Kind("Differences of edges", "cyclevar train --set 'loss.cycle_terms={{l1: 1, {name}: 1}}'"),
    "metric": Kind("Sharpness relative to the target domain", "cyclevar evaluate --metrics kid,{name}"),
    "callback": Kind("Less chance at the finest scales", "cyclevar generate --callback {name}"),
}
"""The kinds that can be begun with."""

COMMON = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "test.yml": ".github/workflows/test.yml",
    "init.py": "src/{package}/__init__.py",
    "plugin.py": "src/{package}/plugin.py",
}
OF_A_KIND = {
    "config.py": "src/{package}/config.py",
    "{kind}.py": "src/{package}/{kind}.py",
    "test.py": "tests/test_{kind}.py",
}
"""Template -> where its text goes."""


def new_plugin(name: str, kind: str, parent: Path) -> Path:
    """Write the package ``cyclevar-NAME`` into ``parent``; returns its folder.

    Raises:
        UnknownNameError: no package can be written for this kind.
        ConfigError: the name cannot be one, is taken by a part, plugin or distribution, or the folder exists.
    """
    if kind not in KINDS:
        raise UnknownNameError("kind that can be begun with", kind, KINDS)
    short = checked_name(name)
    part = short.replace("-", "_")
    folder = parent / f"{PROJECT}-{short}"
    _refuse_taken(part, short, kind, get_manager())
    if folder.exists():
        raise ConfigError(f"{folder} exists already", hint="choose another name, or another place by --out")
    values = {
        "name": part,
        "kind": kind,
        "distribution": f"{PROJECT}-{short}",
        "package": f"{PROJECT}_{part}",
        "title": "".join(word.capitalize() for word in part.split("_")),
        "summary": KINDS[kind].summary,
        "usage": KINDS[kind].usage.format(name=part),
        "range": supported_range(importlib.metadata.version(PROJECT)),
    }

    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("cyclevar.core.scaffold"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    for source, files in (("common", COMMON), (kind, OF_A_KIND)):
        for template, place in files.items():
            text = templates.get_template(f"{source}/{template.format(**values)}.jinja").render(values)
            _write(folder / place.format(**values), text)
    _write(folder / "src" / values["package"] / "py.typed", "")
    return folder


def checked_name(name: str) -> str:
    """The name in its normal form (PEP 503), without ``cyclevar-`` in front. Raises `ConfigError` for an unfit one."""
    normal = re.sub(r"[-_.]+", "-", name).lower().removeprefix(f"{PROJECT}-")
    fits = re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", normal) and len(normal) <= LONGEST
    if not fits or keyword.iskeyword(normal):
        raise ConfigError(
            f"{name!r} cannot be the name of a plugin",
            expected=f"up to {LONGEST} letters, digits and single hyphens, a letter first, such as my-loss",
        )
    return normal


def supported_range(version: str) -> str:
    """The versions that a plugin written now may count on (docs/promise.md), as ``>=0.1,<0.2`` or ``>=1.4,<2``."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return f">={major}.{minor},<{major + 1}" if major else f">=0.{minor},<0.{minor + 1}"


def _refuse_taken(part: str, short: str, kind: str, manager: Manager) -> None:
    """Raise `ConfigError` naming who has that name already."""
    owner = ""
    if part in manager.registry.names(kind):
        owner = f"a {kind} of {manager.registry.get(kind, part).owner}"
    everyone: list[Plugin | Failure] = [*manager.plugins, *manager.failures, *manager.disabled]
    for plugin in (plugin for plugin in everyone if plugin.name == part):
        owner = owner or f"a plugin of {plugin.distribution}"
    if importlib.util.find_spec(f"{PROJECT}_{part}") is not None:
        owner = owner or f"an importable package, {PROJECT}_{part}"
    if owner:
        raise ConfigError(f"the name {short!r} is taken by {owner}", hint="choose another")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
