"""Locks between processes, of a file or of a folder. A lock ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from cyclevar.core.errors import CheckpointError, ConfigError
from cyclevar.core.runtime.files import shown, unsaved

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_log = logging.getLogger(__name__)

LOCK = ".lock"
"""Name of the lock file. Its text says who holds the lock, for the message of those who do not get it."""


class InUseError(ConfigError):
    """A folder that another process works in."""


@contextlib.contextmanager
def locked(path: Path, what: str, hint: str) -> Iterator[None]:
    """Hold the lock file ``path`` for the block.

    Raises:
        InUseError: another process holds it; ``what`` says what that process does, ``hint`` what to do.
        CheckpointError: the lock file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _acquire(path, lambda holder: InUseError(f"{holder} {what} ({shown(path)})", hint=hint))
    except OSError as error:
        raise unsaved(path, error) from error
    try:
        yield
    finally:
        _release(file, path)


class FolderLock:
    """The lock of a folder, which is made if it is missing. Use it as a context, or call `release`.

    The operating system holds the lock (``flock``), so it ends when the process ends, however that happens, also on
    network file systems that pass locks on. If a file system knows no locks, a warning says so.

    Raises:
        InUseError: another process holds the lock.
        CheckpointError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, *, new: bool = False) -> None:
        """``new``: the folder must not exist yet; otherwise `InUseError`."""
        self._path = folder / LOCK
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=not new)
            self._file = _acquire(self._path, lambda holder: _folder_in_use(folder, holder))
        except FileExistsError as error:
            raise InUseError(f"{folder} exists") from error
        except OSError as error:
            self._remove_folders()
            raise CheckpointError(
                f"{folder} cannot be written ({error.strerror})", hint="choose another folder with --out"
            ) from error

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give up the lock. A folder that was made for it and is empty is removed."""
        _release(self._file, self._path)
        self._remove_folders()

    def _remove_folders(self) -> None:
        for path in self._made:
            with contextlib.suppress(OSError):
                path.rmdir()


def _folder_in_use(folder: Path, holder: str) -> InUseError:
    return InUseError(
        f"{folder} is in use by {holder}",
        expected="one process in a folder at a time",
        hint="wait for its end or stop it, or choose another folder with --out",
    )


def _acquire(path: Path, in_use: Callable[[str], InUseError]) -> int:
    """Return the descriptor of the locked file ``path``; raise ``in_use(holder)`` if another process holds it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _lock(file, path, in_use)
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(file), path.stat()):
                    now = datetime.now(UTC).isoformat(timespec="seconds")
                    os.truncate(file, 0)
                    os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()} since {now}".encode(), 0)
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # the previous holder removed it meanwhile


def _lock(file: int, path: Path, in_use: Callable[[str], InUseError]) -> None:
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(file, 200, 0).decode(errors="replace")
        raise in_use(holder if holder.isprintable() and holder else "another process") from error
    except OSError as error:
        _log.warning("%s cannot be locked (%s): start nothing else there", path.parent, error.strerror)


def _release(file: int, path: Path) -> None:
    """Remove the lock file while it is held, so that no one waits for a file that is gone, and close it."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(file), path.stat()):
            path.unlink()
    os.close(file)
