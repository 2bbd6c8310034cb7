"""Read one image of any common kind as plain 8-bit RGB, and write one."""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cyclevar.core.errors import PictureError, UnknownNameError
from cyclevar.core.runtime.files import write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")

LARGEST_FILE = 2**30
"""Bytes that a file may have to be opened at all."""

# Only these decoders run: Pillow knows formats (EPS) that start another program.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

_ORIENTATION = 0x0112  # the EXIF tag

# What Pillow's decoders raise on damaged files, besides UnidentifiedImageError (an OSError).
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def read_picture(source: Path | bytes | bytearray | memoryview, *, name: str | None = None) -> Image.Image:
    """Read a picture as mode RGB, 8 bits a channel.

    The EXIF orientation is applied; more than 8 bits are scaled, not clipped; transparency is laid on white; of an
    animation the first frame is taken.

    Args:
        source: a file, or its content.
        name: what to call the picture in errors; the path if not given.

    Raises:
        PictureError: the file cannot be opened, is empty, damaged, no picture, larger than `LARGEST_FILE`, or has so
            many pixels that it could only be an attack (more than twice ``PIL.Image.MAX_IMAGE_PIXELS``).
    """
    with _opened(source, name) as opened:
        return _to_rgb(ImageOps.exif_transpose(opened))


@dataclass(frozen=True)
class PictureFacts:
    """What a file says of its picture: ``turned`` by EXIF, of several ``frames``, ``transparent``, ``deep`` (more than
    8 bits); ``size`` is the width and height that are shown."""

    kind: str
    mode: str
    size: tuple[int, int]
    frames: int
    turned: bool
    transparent: bool
    deep: bool


def describe_picture(source: Path | bytes, *, name: str | None = None) -> tuple[PictureFacts, Image.Image]:
    """What `read_picture` reads, and what the file says of it. Raises `PictureError` as that does."""
    with _opened(source, name) as opened:
        picture = _to_rgb(ImageOps.exif_transpose(opened))
        facts = PictureFacts(
            kind=opened.format or "",
            mode=opened.mode,
            size=picture.size,
            frames=getattr(opened, "n_frames", 1),
            turned=opened.getexif().get(_ORIENTATION, 1) != 1,
            transparent=opened.has_transparency_data,
            deep=_is_deep(opened),
        )
        return facts, picture


def read_file(path: Path) -> bytes:
    """The content of a regular file that has some. Raises `OSError` or `ValueError` with the reason."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe would never end
        raise ValueError("not a file")
    if found.st_size > LARGEST_FILE:
        raise ValueError(f"the file has {found.st_size} bytes, more than any picture")
    return path.read_bytes()


@contextlib.contextmanager
def _opened(source: Path | bytes | bytearray | memoryview, name: str | None) -> Iterator[Image.Image]:
    """The picture, decoded; whatever is wrong with it, inside the block too, becomes a `PictureError`."""
    try:
        data = read_file(source) if isinstance(source, Path) else bytes(source)
        if not data:
            raise ValueError("the file is empty")
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            opened.load()
            yield opened
    except _DECODER_ERRORS as error:
        called = name or (str(source) if isinstance(source, Path) else "(bytes)")
        raise PictureError(f"cannot read the picture {called}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture, or none of " + ", ".join(_FORMATS)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _is_deep(picture: Image.Image) -> bool:
    return picture.mode.startswith("I") or picture.mode == "F"


def _to_rgb(picture: Image.Image) -> Image.Image:
    if _is_deep(picture):
        return Image.fromarray(_eight_bits(np.asarray(picture))).convert("RGB")
    if picture.has_transparency_data:
        opaque = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale grey values to 0..255.

    The file does not say where white is: 65535 for 16 bits; for wider integers and floats the least of 1 (floats only),
    255 (floats only), 65535 and 2**31 - 1 that no value exceeds.
    """
    values = np.nan_to_num(values)
    whites = (1.0, 255.0, 65535.0, 2.0**31 - 1) if values.dtype.kind == "f" else (65535.0, 2.0**31 - 1)
    white = next((white for white in whites if values.max() <= white), whites[-1])
    return np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8)


FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95}),
    ".jpeg": ("JPEG", {"quality": 95}),
    ".webp": ("WEBP", {"quality": 95}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
}
"""Suffix -> Pillow's format and its options. GIF is read but not written: 256 colours are too few."""


def written_suffix(kind: str, hint: str = "") -> str:
    """The suffix of a format, given as png or .PNG. Raises `UnknownNameError` where it cannot be written."""
    suffix = "." + kind.lower().removeprefix(".")
    if suffix not in FORMATS:
        known = [known.removeprefix(".") for known in FORMATS]
        raise UnknownNameError("picture format to write", suffix.removeprefix("."), known, hint=hint)
    return suffix


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture atomically, in the format that the suffix of ``path`` says (`FORMATS`).

    Raises:
        PictureError: the format cannot hold it.
        CheckpointError: the file cannot be written.
    """
    encoded = encode_picture(picture, path)

    def write(partial: Path) -> None:
        partial.write_bytes(encoded)

    write_atomically(path, write)


def encode_picture(picture: Image.Image, name: PurePath) -> bytes:
    """The content of a file called ``name``, in the format that its suffix says (`FORMATS`). Raises `PictureError`."""
    kind, options = FORMATS[name.suffix.lower()]
    encoded = io.BytesIO()
    try:
        picture.save(encoded, kind, **options)
    except (OSError, ValueError) as error:
        raise PictureError(f"cannot write {name} as {kind}: {error}") from error
    return encoded.getvalue()
