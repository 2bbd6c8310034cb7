"""Read tar archives of unknown origin within bounds of memory and of what they unpack to."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

LARGEST_HEADER = 2**22
"""Bytes of one header (a long name, extended attributes) that are read; more is damage or an attack."""

LARGEST_MEMBER = 2**29
"""Bytes that a member, and all members of one sample together, may have unpacked."""

LARGEST_RATIO, ANY_SIZE = 200, 2**30
"""A compressed archive may unpack to ``ANY_SIZE`` bytes and to ``LARGEST_RATIO`` times its own size beyond them."""

_BLOCK = 2**20


class _Bounded(io.RawIOBase):
    """A file of which no single read takes much memory, and of which no more than ``limit`` bytes are unpacked."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file, self._limit = file, limit

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_HEADER:
            raise tarfile.ReadError(f"a header has {size} bytes, more than {LARGEST_HEADER}")
        data = self._file.read(size)
        self._check()
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        place = self._file.tell() if self._limit else 0
        while self._limit and whence == 0 and offset - place > _BLOCK:  # unpacking on the way is bounded too
            place = self._file.seek(place + _BLOCK)
            self._check()
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def _check(self) -> None:
        if self._limit and self._file.tell() > self._limit:
            raise tarfile.ReadError(f"it unpacks to more than {self._limit} bytes")


@contextlib.contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar archive, whatever compresses it. Raises what tarfile and the decompressors raise."""
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(path.open("rb"))
        start = plain.read(6)
        plain.seek(0)
        unpacked: Any = plain
        if start.startswith(b"\x1f\x8b"):
            unpacked = stack.enter_context(gzip.GzipFile(fileobj=plain))
        elif start.startswith(b"BZh"):
            unpacked = stack.enter_context(bz2.BZ2File(plain))
        elif start.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
            unpacked = stack.enter_context(lzma.LZMAFile(plain))
        limit = 0 if unpacked is plain else ANY_SIZE + LARGEST_RATIO * path.stat().st_size
        yield stack.enter_context(tarfile.open(fileobj=_Bounded(unpacked, limit), mode="r:"))


def read_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    """Return the content of a member of at most `LARGEST_MEMBER` bytes, read piece by piece."""
    content = tar.extractfile(info)
    assert content is not None
    parts = list[bytes]()
    while part := content.read(_BLOCK):
        parts.append(part)
    return b"".join(parts)


def plain_name(name: str) -> str:
    """Return a member's name without ``./`` and doubled slashes: a sample has one name, however packed."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))
