"""Configuration files: YAML, and ``--set`` overrides."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cyclevar.core.config.base import shown
from cyclevar.core.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, except that ``1e-4`` is a number as in YAML 1.2 (PyYAML wants ``1.0e-4``)."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes whatever text `_Loader` would read as something else."""


_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+\Z")
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Return plain data as YAML, in their order, so that `load_yaml` reads the same: a text stays a text."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def load_yaml(path: str | Path, *, texts: bool = False) -> dict[str, Any]:
    """Read a YAML file that holds one mapping; an empty file is an empty mapping. ``texts``: every value is a text.

    Raises ConfigError when the file is missing, is not YAML (with the line), or holds something else.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read {path}: {reason}", expected="a YAML file of settings") from error
    try:
        data = yaml.load(text, Loader=yaml.BaseLoader) if texts else _parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {_reason(error)}", expected="lines such as `batch: 8`") from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{path} holds {shown(data)}", expected="settings by name, such as `batch: 8`")
    return data


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``data`` with each ``"a.b=value"`` put in; values are read as YAML (numbers, true, null, [1, 2]).

    Missing sections on the way are created. Raises ConfigError for an override without ``=`` or without a key, and
    for one that goes through a value that is not a section.
    """
    result = copy.deepcopy(dict(data))
    for override in overrides:
        dotted, equals, text = override.partition("=")
        *sections, last = (part.strip() for part in dotted.split("."))
        if not equals or not all((*sections, last)):
            raise ConfigError(f"cannot read the setting {override!r}", expected="KEY=VALUE, such as train.steps=100")
        here = result
        for depth, section in enumerate(sections, start=1):
            inner = here.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"cannot set {dotted.strip()}: {'.'.join(sections[:depth])} is {shown(inner)}",
                    expected="a section with settings of its own",
                )
            here = inner
        try:
            here[last] = _parse(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"cannot read the value of {override!r}: {_reason(error)}") from error
    return result


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # a SafeLoader: plain data only


def _reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be parsed"
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else problem
