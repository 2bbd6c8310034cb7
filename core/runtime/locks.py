"""Locks of folders: one process at a time works in a folder. A lock ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from cyclevar.core.errors import CheckpointError, ConfigError

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
            self._file = self._open(folder)
        except FileExistsError as error:
            raise InUseError(f"{folder} exists") from error
        except OSError as error:
            self._remove_folders()
            raise CheckpointError(
                f"{folder} cannot be written ({error.strerror})", hint="choose another folder with --out"
            ) from error

    def _open(self, folder: Path) -> int:
        """Return the descriptor of the locked file, which is still the one in the folder."""
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._lock(file, folder)
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.fstat(file), self._path.stat()):
                        now = datetime.now(UTC).isoformat(timespec="seconds")
                        os.truncate(file, 0)
                        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()} since {now}".encode(), 0)
                        return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # the holder before removed it meanwhile

    @staticmethod
    def _lock(file: int, folder: Path) -> None:
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(file, 200, 0).decode(errors="replace")
            raise InUseError(
                f"{folder} is in use" + (f" by {holder}" if holder.isprintable() and holder else ""),
                expected="one process in a folder at a time",
                hint="wait for its end or stop it, or choose another folder with --out",
            ) from error
        except OSError as error:
            _log.warning("%s cannot be locked (%s): start nothing else in it", folder, error.strerror)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give up the lock. A folder that was made for it and is empty is removed."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._file), self._path.stat()):
                self._path.unlink()
        os.close(self._file)
        self._remove_folders()

    def _remove_folders(self) -> None:
        for path in self._made:
            with contextlib.suppress(OSError):
                path.rmdir()
