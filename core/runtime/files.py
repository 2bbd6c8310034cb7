"""Files: atomic writes, hashes, and safe joins of names from untrusted archives and manifests.

A file is whole or absent: it is written beside its place, flushed to the disk and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import safetensors

from cyclevar.core.errors import CheckpointError


def shown(name: str | Path) -> str:
    """Return a file name as text that can be printed and stored: bytes that are not UTF-8 as ``\\xf6``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


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


_HINTS: dict[str, tuple[int, ...]] = {
    "free some disk space or choose another folder": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "the file system is read-only: choose another folder": (errno.EROFS,),
    "the name is too long: choose a shorter one": (errno.ENAMETOOLONG,),
    "there is no permission to write there: change it or choose another folder": (errno.EACCES, errno.EPERM),
    "a file or folder of that name is in the way: remove it or choose another name": (
        errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY,
    ),
    "the file system does not take such a name: choose another one": (errno.EINVAL, errno.EILSEQ, errno.ELOOP),
    "too many files are open: raise the limit (ulimit -n)": (errno.EMFILE, errno.ENFILE),
    "the disk or the network has a fault: check it or choose another folder": (errno.EIO, errno.ESTALE),
}  # fmt: skip
"""What to do about the causes for which a file cannot be written."""

_OF_ONE_FILE = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EINVAL,
                errno.EILSEQ, errno.ELOOP, errno.EACCES, errno.EPERM)  # fmt: skip


def _error_number(error: BaseException) -> int | None:
    """The number of an operating system's error; safetensors says it in its text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def unsaved(path: Path, error: BaseException) -> CheckpointError:
    """Return the error of a file that cannot be written, with the cause and what to do about it."""
    number = _error_number(error)
    hint = next((hint for hint, numbers in _HINTS.items() if number in numbers), "choose another folder")
    reason = os.strerror(number) if number is not None else str(error)
    return CheckpointError(
        f"{shown(path)} could not be saved ({reason})", hint=f"{hint}; what was saved before is untouched"
    )


def concerns_one_file(error: CheckpointError) -> bool:
    """Return whether `write_atomically` failed for a cause that other files need not share, such as a long name."""
    return error.__cause__ is not None and _error_number(error.__cause__) in _OF_ONE_FILE


_HOST = hashlib.sha256(socket.gethostname().encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _partial(path: Path) -> Path:
    """A temporary name beside ``path`` that no other process uses, and that tells its owner; short, whatever ``path``.

    ``.HOST-PROCESS-RANDOM.partial``
    """
    return path.with_name(f".{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.partial")


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files of `write_atomically` whose process, on this machine, is gone."""
    for partial in folder.glob(f".{_HOST}-*-*.partial"):
        owner = partial.name.split("-")[1]
        if owner.isdecimal() and not _lives(int(owner)):
            with contextlib.suppress(OSError):
                partial.unlink()


def _lives(process: int) -> bool:
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file, then put it in place of ``path``; an earlier file survives any failure.

    The temporary file lies in the same folder under a name of its own, so several processes may write one path: the
    last one wins, and the file is whole whoever is killed. Raises `CheckpointError` (`unsaved`).
    """
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode  # as the user's umask has it; some writers make files for the owner
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
        raise unsaved(path, error) from error
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
