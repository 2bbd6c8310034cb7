"""Entry points of the installed distributions, read one distribution at a time.

``importlib.metadata.entry_points`` raises if the ``entry_points.txt`` of any distribution is malformed. pydantic and
torch scan the same files when they are imported, and fail with it.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, EntryPoint
from typing import NamedTuple

GROUP = "cyclevar"
"""The group of the entry points of plugins."""

_OTHER_SCANS = {"PYDANTIC_DISABLE_PLUGINS": "__all__", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
"""Environment variables that keep pydantic and torch from scanning."""


class Installed(NamedTuple):
    """Entry points of the group ``cyclevar``, and why others cannot be read, by the name of their distribution."""

    points: list[EntryPoint]
    unreadable: dict[str, str]


def installed_entry_points() -> Installed:
    """Read the entry points of all distributions; of two with one name, the first on the path counts."""
    found = Installed([], {})
    seen: set[str] = set()
    for distribution, points, problem in _scan():
        if not points and not problem:
            continue
        name = distribution.name or "a distribution without a name"  # None without METADATA
        if name in seen:
            continue
        seen.add(name)
        found.points.extend(points)
        if problem:
            found.unreadable[name] = problem
    return found


def protect_imports() -> None:
    """Keep pydantic and torch from scanning if a distribution's entry points cannot be read.

    Otherwise importing either of them would raise. Values that the user set stay.
    """
    if any(problem for _, _, problem in _scan()):
        for variable, value in _OTHER_SCANS.items():
            os.environ.setdefault(variable, value)


def _scan() -> Iterator[tuple[Distribution, Sequence[EntryPoint], str]]:
    """Yield every distribution, its entry points of the group, and why they cannot be read ("" if they can)."""
    for distribution in importlib.metadata.distributions():
        try:
            yield distribution, list(distribution.entry_points.select(group=GROUP)), ""
        except Exception as error:  # the file may hold anything
            message = " ".join(str(error).split())
            yield distribution, [], f"its entry_points.txt cannot be read ({type(error).__name__}: {message})"
