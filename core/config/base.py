"""Settings: the base class of every configuration, and errors in one readable line.

Nothing here knows a particular setting, and nothing imports torch.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from cyclevar.core.errors import ConfigError, UnknownNameError

Model = TypeVar("Model", bound=BaseModel)


class Settings(BaseModel):
    """Base of every configuration: unknown keys are refused, values never change, any field name is free to use."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


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
    subject = f"{dotted} is {shown(first[0]['input'])}" if key else f"got {shown(first[0]['input'])}"
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


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
