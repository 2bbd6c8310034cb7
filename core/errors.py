"""The exceptions that cyclevar raises on purpose.

::

    CyclevarError              anything that the user can act on; the command line prints one line, exit code 2
    ├── ConfigError            a setting that is unknown, out of range, or contradicts another
    │   └── UnknownNameError   a name that nobody registered; carries the nearest known ones
    ├── DataError              a folder or archive that cannot serve as a data set
    │   └── PictureError       one picture that cannot be read
    ├── CheckpointError        weights or training states that cannot be loaded or saved
    ├── MemoryShortageError    a pass that does not fit into the memory that there is
    └── PluginError            a plugin that failed to load, misspelt a hook or took a used name

Every message says what was found, what was expected and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def nearest(name: str, known: Iterable[str]) -> str:
    """A question that offers the known name most like ``name``; empty when none is like it."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else ""


def brief(text: str, limit: int = 40) -> str:
    """The text, cut where it is longer than ``limit`` characters."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class CyclevarError(Exception):
    """Base of every error that the user can act on.

    ``expected`` and ``hint`` complete the message: what was wrong; what was expected; what to do.
    """

    exit_code = 2

    def __init__(self, problem: str, *, expected: str = "", hint: str = "") -> None:
        self.problem, self.expected, self.hint = problem, expected, hint
        parts = [problem.rstrip(".")]
        if expected:
            parts.append(f"expected {expected.rstrip('.')}")
        if hint:
            parts.append(hint.rstrip("."))
        message = "; ".join(parts)
        super().__init__(message if message.endswith("?") else message + ".")

    def __reduce__(self) -> tuple[Any, ...]:
        """So that an error can be sent from process to process, whatever its class is made with."""
        return _restored, (type(self), self.args, vars(self))


def _restored(kind: type[CyclevarError], arguments: tuple[Any, ...], state: dict[str, Any]) -> CyclevarError:
    error = kind.__new__(kind)
    error.args = arguments
    vars(error).update(state)
    return error


class ConfigError(CyclevarError):
    """A setting that is unknown, out of range, or contradicts another."""


class UnknownNameError(ConfigError):
    """A name that is not among the known ones; the message offers the nearest and lists the rest."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        known = sorted(known)
        super().__init__(
            f"there is no {kind} named {brief(name, 80)!r}",
            expected="one of " + ", ".join(known) if known else f"a registered {kind} (none is registered)",
            hint=" ".join(part for part in (nearest(name, known), hint) if part),
        )
        self.kind, self.name, self.known = kind, name, known


class DataError(CyclevarError):
    """A folder or archive that cannot serve as a data set."""


class PictureError(DataError):
    """One picture that cannot be read; ``problem`` names the file and the reason."""


class CheckpointError(CyclevarError):
    """Weights or a training state that cannot be loaded or saved."""


class MemoryShortageError(CyclevarError):
    """A pass that does not fit into the memory that there is."""


class PluginError(CyclevarError):
    """A plugin that failed to load, misspelt a hook or took a used name."""
