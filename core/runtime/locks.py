"""Locks between processes that end with their owner, however it ends."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cyclevar.core.errors import ConfigError
from cyclevar.core.runtime.files import shown, unsaved

fcntl: Any
try:
    fcntl = importlib.import_module("fcntl")
except ImportError:  # not POSIX: nothing is locked
    fcntl = None


@contextlib.contextmanager
def locked(path: Path, what: str, hint: str) -> Iterator[None]:
    """Hold the lock file ``path`` for the block; the operating system releases it with the process.

    Raises:
        ConfigError: another process holds it; ``what`` says what that process does, ``hint`` what to do.
        CheckpointError: the lock file cannot be written.
    """
    if fcntl is None:
        yield
        return
    file = _acquire(path, what, hint)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is held, so that no one waits for a file that is gone
        os.close(file)


def _acquire(path: Path, what: str, hint: str) -> int:
    """Open and lock a file that is still in its place once it is locked."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise unsaved(path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(file, 20, 0).decode("ascii", "replace").strip()
            os.close(file)
            by = f"process {owner}" if owner.isdecimal() else "another process"
            raise ConfigError(f"{by} {what} ({shown(path)})", hint=hint) from None
        except OSError:  # a file system without locks
            return file
        try:
            if os.path.samestat(os.fstat(file), path.stat()):
                os.ftruncate(file, 0)
                os.pwrite(file, str(os.getpid()).encode(), 0)
                return file
        except FileNotFoundError:
            pass
        os.close(file)  # its owner has just removed it
