"""Digests of files' contents, kept in a cache so that an unchanged file is read once.

The cache holds a line per file: its size, its times of modification and change, its index node and its digest. A file
that differs in one of them is read again; so is one that was modified in the last seconds before it was read, since a
further change could leave all of them equal.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cyclevar.core.errors import CheckpointError

UNREADABLE = "-"
"""The digest of what is no file or cannot be opened."""

_SETTLED = 2 * 10**9  # nanoseconds after which a file counts as no longer being written
_BLOCK = 2**20


def cache_folder() -> Path:
    """Return where digests are kept: ``CYCLEVAR_CACHE``, else cyclevar in the user's cache folder."""
    if own := os.environ.get("CYCLEVAR_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cyclevar"


def digests(root: Path, names: Sequence[str], *, workers: int = 4) -> list[str]:
    """Return 32 hex digits per file in ``root``, over its content; `UNREADABLE` for one that cannot be read."""
    file = _cache_file(root)
    known = _load(file)
    states = [_state(root / name) for name in names]
    found = [
        UNREADABLE if state is None else known.get(name, ("", ""))[1] if known.get(name, ("",))[0] == state else None
        for name, state in zip(names, states, strict=True)
    ]
    missing = [index for index, digest in enumerate(found) if digest is None]
    if missing:
        begin = time.time_ns()
        with ThreadPoolExecutor(workers, thread_name_prefix="digests") as pool:
            new = list(pool.map(lambda index: _digest(root / names[index]), missing, chunksize=64))
        for index, digest in zip(missing, new, strict=True):
            found[index] = digest
        kept = known | {
            name: (state, digest)
            for name, state, digest in zip(names, states, found, strict=True)
            if state is not None and digest not in (None, UNREADABLE) and begin - int(state.split()[1]) > _SETTLED
        }
        from cyclevar.core.runtime.files import save_text  # here, since it brings torch

        with contextlib.suppress(CheckpointError, OSError):  # a cache is of use, not needed
            save_text(file, "".join(f"{state} {digest} {json.dumps(name)}\n" for name, (state, digest) in kept.items()))
    return [digest or UNREADABLE for digest in found]


def _cache_file(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    return cache_folder() / "digests" / f"{name}.txt"


def _load(file: Path) -> dict[str, tuple[str, str]]:
    """Name -> state and digest; lines that are damaged are left out."""
    known: dict[str, tuple[str, str]] = {}
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                size, modified, changed, node, digest, name = line.split(" ", 5)
                known[json.loads(name)] = f"{size} {modified} {changed} {node}", digest
    except (OSError, ValueError):
        pass
    return known


def _state(path: Path) -> str | None:
    """What changes when the file does; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return UNREADABLE
    return digest.hexdigest()[:32]
