"""PNG files that Pillow refuses for metadata that nobody needs to show the image.

Large or damaged text (workflows, XMP), EXIF and profiles never make an image bad: the file is read without them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from cyclevar.core.data.color_profiles import LARGEST_PROFILE

_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# What the pixels need, and how they are shown.
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"acTL", b"fcTL", b"fdAT")


def without_metadata(data: bytes) -> tuple[bytes, bytes | None]:
    """Return a PNG file's necessary chunks, and its ICC profile if that has at most `LARGEST_PROFILE` bytes."""
    kept, profile = [_SIGNATURE], None
    for kind, whole in _chunks(data):
        if kind in _KEPT:
            kept.append(whole)
        elif kind == b"iCCP":
            profile = _profile(whole[8:-4])
    return b"".join(kept), profile


def is_png(data: bytes) -> bool:
    """Return whether the file says that it is PNG."""
    return data.startswith(_SIGNATURE)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind of every chunk, and the chunk with its length and check sum; a last one that is cut is passed on."""
    place = len(_SIGNATURE)
    while place + 8 <= len(data):
        length = struct.unpack_from(">I", data, place)[0]
        kind = data[place + 4 : place + 8]
        yield kind, data[place : place + 12 + length]
        place += 12 + length
        if kind == b"IEND":
            return


def _profile(content: bytes) -> bytes | None:
    packed = content.partition(b"\0")[2][1:]  # after the name and the method
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(packed, LARGEST_PROFILE)
    except zlib.error:
        return None
    return profile if unpacker.eof else None
