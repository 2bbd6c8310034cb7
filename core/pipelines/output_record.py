"""A record of how the outputs in a folder were made, so that those made in another way are made again.

The folder of the outputs holds ``.cyclevar-outputs.jsonl``. Each line names an output and says by which model and
settings (16 hex digits over them), of which source (size and time) it was made, and how large it is. Lines are only
appended; of several lines on an output the last one counts. Several processes may write it at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclevar.core.runtime.files import unsaved

RECORD = ".cyclevar-outputs.jsonl"


class OutputRecord:
    """The record of a folder, for a translation by ``settings``: what decides how outputs look."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.path = folder, folder / RECORD
        text = json.dumps(settings, sort_keys=True, default=str)
        self.made_by = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._lines = _load(self.path)

    def is_done(self, output: Path, sources: Sequence[Path]) -> bool:
        """Return whether an output is what a translation would make now.

        An output that is not in the record, made by hand or by another program, counts as done if it is newer than its
        sources, so nothing that cyclevar did not make is replaced.
        """
        known = self._lines.get(self._name(output))
        if known is None:
            return is_newer(output, sources)
        return output.is_file() and known == self._line(output, sources)

    def note(self, output: Path, sources: Sequence[Path]) -> None:
        """Append what an output was made of. Raises `CheckpointError`."""
        name, line = self._name(output), self._line(output, sources)
        self._lines[name] = line
        data = (json.dumps({"output": name, **line}) + "\n").encode()
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(file, data)
            finally:
                os.close(file)
        except OSError as error:
            raise unsaved(self.path, error) from error

    def _name(self, output: Path) -> str:
        return os.path.relpath(output, self.folder)

    def _line(self, output: Path, sources: Sequence[Path]) -> dict[str, Any]:
        states = [_state(source) for source in sources]
        source = states[0] if len(states) == 1 else hashlib.sha256("\n".join(states).encode()).hexdigest()[:16]
        return {"made_by": self.made_by, "source": source, "bytes": _state(output).split()[0]}


def is_newer(output: Path, sources: Sequence[Path]) -> bool:
    """Return whether an output is there and no older than its sources; a source that is gone was never older."""
    try:
        made = output.stat().st_mtime
        return output.is_file() and all(source.stat().st_mtime <= made for source in sources)
    except OSError:
        return False


def _state(path: Path) -> str:
    """Size and time of a file."""
    try:
        found = path.stat()
    except OSError:
        return "-"
    return f"{found.st_size} {found.st_mtime_ns}"


def _load(path: Path) -> dict[str, dict[str, Any]]:
    """Output -> line; what is damaged is left out."""
    lines: dict[str, dict[str, Any]] = {}
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    line = json.loads(text)
                    lines[str(line.pop("output"))] = line
                except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
                    continue
    except OSError:
        pass
    return lines
