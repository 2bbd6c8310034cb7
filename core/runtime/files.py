"""Files: atomic writes, hashes, and safe joins of names from untrusted archives and manifests.

A file is whole or absent: it is written beside its place, flushed to the disk and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch

from cyclevar.core.errors import CheckpointError


def inside(folder: Path, name: str) -> Path | None:
    """The path that ``name``, relative to ``folder``, means; None where it leads out of the folder.

    That is so for an absolute name, for one with ``..`` or a drive in it, and for a symbolic link that points
    elsewhere. The cache of the Hugging Face hub, whose snapshots consist of links to the blobs beside them, is left in
    peace. Nothing need exist.
    """
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name or parts[0] == "" or ".." in parts or re.match("[A-Za-z]:", name):
        return None
    try:
        base, meant = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError):  # links in a circle
        return None
    roots = [base, *(parent.parent / "blobs" for parent in base.parents if parent.name == "snapshots")]
    return folder / name if any(meant.is_relative_to(root) for root in roots) else None


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file, then put it in place of ``path``; an earlier file survives any failure."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # left by a process that was killed, or a link that leads elsewhere
        partial.touch()
        mode = partial.stat().st_mode  # as the user's umask has it; some writers make files for the owner alone
        write(partial)
        partial.chmod(mode)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} could not be saved ({error})",
            hint="free some disk space or choose another folder; what was saved before is untouched",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def save_text(path: Path, text: str) -> None:
    """Write a text file atomically."""

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
