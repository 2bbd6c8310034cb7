"""What the checkpoints of a run must be: sizes and hashes, in a file beside them."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from pathlib import Path
from typing import Any

from cyclevar.core.errors import CheckpointError
from cyclevar.core.runtime.files import save_text

_log = logging.getLogger(__name__)


class Manifest:
    """``manifest.json`` in a folder: ``{"files": {file name: {"bytes": size, "sha256": hex digits}}, "sha256": ...}``.

    The last is the hash of the rest, so that a damaged manifest condemns no file. Names in it are compared with those
    of files that are there, and never used as paths.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "manifest.json"
        self._noting: threading.Thread | None = None

    def add(self, written: Path) -> None:
        """Note a file that was just written, and forget those that are gone; goes on beside what follows."""
        self.finish()
        self._noting = threading.Thread(target=self._note, args=(written,), name="manifest")
        self._noting.start()

    def forget(self, path: Path) -> None:
        """To be called before a file is written anew, lest it be taken for damaged should the process end just then."""
        self.finish()
        noted = self._read()
        if noted.pop(path.name, None):
            self._write(noted)

    def rename(self, path: Path, new: Path) -> None:
        """Move a file to a new name in the same folder, in the place of what has it, and its note with it."""
        self.finish()
        noted = self._read()
        note = noted.pop(path.name, None)
        noted.pop(new.name, None)
        path.replace(new)
        self._write(noted | ({new.name: note} if note else {}))

    def finish(self) -> None:
        """Wait until what was added is noted. Nothing that is being noted may be changed or removed before."""
        if self._noting is not None:
            self._noting.join()
            self._noting = None

    def _note(self, written: Path) -> None:
        try:
            self._write(self._read() | {written.name: {"bytes": written.stat().st_size, "sha256": _sha256(written)}})
        except (OSError, CheckpointError) as error:  # the file itself is whole
            _log.warning("%s is not noted in %s (%s)", written, self.path.name, error)

    def _write(self, noted: dict[str, dict[str, Any]]) -> None:
        there = {path.name for path in self.path.parent.iterdir()}
        files = {name: noted[name] for name in sorted(noted.keys() & there)}
        save_text(self.path, json.dumps({"files": files, "sha256": _own(files)}, indent=1) + "\n")

    def flaw(self, path: Path) -> str | None:
        """Return what is wrong with a file; None if nothing is.

        A file that is not noted is accepted with a warning: its process may have ended just before noting it.
        """
        self.finish()
        noted = self._read().get(path.name)
        if noted is None:
            _log.warning(
                "%s is not in %s%s, so its size and hash are not compared",
                path,
                self.path.name,
                "" if self.path.exists() else ", which is missing",
            )
            return None
        try:
            size, digest = path.stat().st_size, _sha256(path)
        except OSError as error:
            return f"it cannot be read ({error})"
        if size != noted["bytes"]:
            return f"it has {size} bytes, {self.path.name} says {noted['bytes']}"
        if digest != noted["sha256"]:
            return f"its SHA-256 begins with {digest[:16]}, {self.path.name} says {noted['sha256'][:16]}"
        return None

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            told = json.loads(self.path.read_text(encoding="utf-8"))
            files: dict[str, dict[str, Any]] = told["files"]
            if told["sha256"] != _own(files):
                raise ValueError("its own SHA-256 is another")
            return files
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
            _log.warning("%s is damaged, so files are not compared with it (%s)", self.path, error)
            return {}


def _own(files: dict[str, dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
