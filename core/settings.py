"""Settings: the base class of every configuration, YAML files, ``--set a.b=c``, and errors in one readable line.

Nothing here knows a particular setting, and nothing imports torch.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from cyclevar.core.errors import ConfigError, UnknownNameError

Model = TypeVar("Model", bound=BaseModel)


class Settings(BaseModel):
    """Base of every configuration: unknown keys are refused, values never change, any field name is free to use."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


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
        raise ConfigError(f"{path} holds {_shown(data)}", expected="settings by name, such as `batch: 8`")
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
                    f"cannot set {dotted.strip()}: {'.'.join(sections[:depth])} is {_shown(inner)}",
                    expected="a section with settings of its own",
                )
            here = inner
        try:
            here[last] = _parse(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"cannot read the value of {override!r}: {_reason(error)}") from error
    return result


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` put in, section by section; neither is changed."""
    result = copy.deepcopy(dict(base))
    for key, value in changes.items():
        mine = result.get(key)
        result[key] = merged(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return result


def validate(model: type[Model], data: Mapping[str, Any]) -> Model:
    """Build ``model`` from plain data.

    Raises ConfigError naming the dotted key, what was got and what was expected, and UnknownNameError with the nearest
    known key for a key that does not exist; further wrong keys are named at the end of the same line.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise _explain(model, data, error.errors(include_url=False)) from error


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names; an empty section has none."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _explain(model: type[BaseModel], data: Mapping[str, Any], errors: Sequence[ErrorDetails]) -> ConfigError:
    by_key: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for error in errors:
        by_key.setdefault(_key(data, error), []).append(error)
    (key, first), *others = by_key.items()
    also = "also wrong: " + ", ".join(".".join(other) for other, _ in others) if others else ""
    dotted = ".".join(key)
    if first[0]["type"] == "extra_forbidden":
        known = [".".join((*key[:-1], name)) for name in _names(model, key[:-1])]
        return UnknownNameError("setting", dotted, known, hint=also)
    if first[0]["type"] == "missing":
        return ConfigError(f"the setting {dotted} is missing", hint=also)
    wanted = dict.fromkeys(re.sub(r"^(Input should be|Value error,) ", "", error["msg"]) for error in first)
    subject = f"{dotted} is {_shown(first[0]['input'])}" if key else f"got {_shown(first[0]['input'])}"
    return ConfigError(subject, expected=" or ".join(wanted), hint=also)


def _key(data: Any, error: ErrorDetails) -> tuple[str, ...]:
    """The part of a pydantic location that names data; the rest names branches of a union."""
    key: list[str] = []
    for part in error["loc"]:
        if isinstance(data, Mapping) and (part in data or error["type"] == "missing"):
            data = data.get(part)
        elif isinstance(data, Sequence) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            break
        key.append(str(part))
    return tuple(key)


def _names(model: type[BaseModel], key: Sequence[str]) -> list[str]:
    """The settings that the section ``key`` of ``model`` knows."""
    sections = [model]
    for part in key:
        fields = [section.model_fields[part] for section in sections if part in section.model_fields]
        if fields:  # otherwise `part` is an index or a free key: the element's own settings were found with its field
            sections = [found for field in fields for found in _models_in(field.annotation)]
    return list(dict.fromkeys(name for section in sections for name in section.model_fields))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # a SafeLoader: plain data only


def _reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be parsed"
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else problem


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
