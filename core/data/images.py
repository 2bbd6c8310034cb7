"""Read one image of any common kind as plain 8-bit sRGB, and write one."""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from PIL import Image, ImageCms, ImageColor, UnidentifiedImageError

from cyclevar.core.data.color_profiles import Conversion, conversion_to_srgb, convert
from cyclevar.core.data.image_formats import DECODERS, TGA
from cyclevar.core.data.levels import Range, eight_bits, is_deep, sample_range
from cyclevar.core.data.png import is_png, without_metadata
from cyclevar.core.errors import ConfigError, PictureError, UnknownNameError
from cyclevar.core.runtime.files import shown, write_atomically

LARGEST_FILE = 2**30
"""Bytes that a file may have to be opened at all."""

LARGEST_DECODED = 3 * 2**29
"""Bytes that decoding and converting one image may take; estimated from its header, before they are taken."""

_SMALL_DECODED = 2**27  # images above this are decoded one at a time, whatever number of threads reads
_one_large = threading.Lock()

_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

LONGEST_TEXT = 10_000
"""Characters of an EXIF text that is kept."""

_KEPT_TAGS = (270, 306, 315, 33432)  # ImageDescription, DateTime, Artist, Copyright
_PHOTO_IFD, _TAKEN = 0x8769, 36867  # DateTimeOriginal

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
    RecursionError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def read_picture(
    source: Path | bytes | bytearray | memoryview, *, name: str | None = None, background: str = "white"
) -> Image.Image:
    """Read an image as mode RGB, 8 bits per channel, in sRGB.

    Applies the EXIF orientation, converts an embedded colour profile to sRGB, scales more than 8 bits
    (:mod:`cyclevar.core.data.levels`), puts transparency on ``background`` and takes the first frame of an animation.

    Args:
        source: a file, or its content.
        name: what to call the image in errors; the path if not given.
        background: the colour behind transparent pixels.

    Raises:
        PictureError: the file cannot be opened, is empty, damaged, no image, larger than `LARGEST_FILE`, has so many
            pixels that it could only be an attack (more than twice ``PIL.Image.MAX_IMAGE_PIXELS``), or would take more
            than `LARGEST_DECODED` bytes of memory.
    """
    with _opened(source, name) as opened:
        return _developed(opened, background).image


@dataclass(frozen=True)
class Writing:
    """How results are written.

    Attributes:
        quality: 1 to 100 for JPEG, WebP and AVIF; 95 if None.
        metadata: keep caption, author, copyright and dates of the source's EXIF data.
        alpha: keep the source's transparency, where the format can; else results are opaque.
        profile: embed the sRGB profile; results are in sRGB with or without it.
    """

    quality: int | None = None
    metadata: bool = True
    alpha: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ConfigError(f"the quality is {self.quality}", expected="1 to 100")


@dataclass(frozen=True)
class Extras:
    """What a source has besides its colours: EXIF data to keep, and transparency, turned as the image is."""

    exif: bytes = b""
    alpha: Image.Image | None = None


def read_with_extras(source: Path | bytes, writing: Writing, *, name: str | None = None) -> tuple[Image.Image, Extras]:
    """Return what `read_picture` reads, and of the rest what ``writing`` keeps. Raises `PictureError`."""
    with _opened(source, name) as opened:
        alpha = None
        if writing.alpha and opened.has_transparency_data:
            alpha, turn = opened.convert("RGBA").getchannel("A"), _TURNS.get(_orientation(opened))
            alpha = alpha if turn is None else alpha.transpose(turn)
        return _developed(opened, "white").image, Extras(_exif_to_keep(opened) if writing.metadata else b"", alpha)


def _exif_to_keep(image: Image.Image) -> bytes:
    """EXIF data with the texts of an image's own that say something of the result too, newly written."""
    kept = Image.Exif()
    try:
        found, photo = image.getexif(), image.getexif().get_ifd(_PHOTO_IFD)
        for tag in _KEPT_TAGS:
            value = found.get(tag)
            if isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT:
                kept[tag] = value.encode("latin-1", "replace")  # the bytes as they were: Pillow reads them so
        taken = photo.get(_TAKEN)
        if isinstance(taken, str) and len(taken) < 30:
            kept.get_ifd(_PHOTO_IFD)[_TAKEN] = taken
        return kept.tobytes() if len(kept) or kept.get_ifd(_PHOTO_IFD) else b""
    except (*_DECODER_ERRORS, Warning):
        return b""


@dataclass(frozen=True)
class PictureFacts:
    """What a file says of its image.

    Attributes:
        size: the width and height that are shown.
        turned: EXIF says so.
        deep: more than 8 bits.
        profile: the name of the colour profile that was converted to sRGB; empty if there is none or it is sRGB.
        span: the samples that became black and white, if their range had to be found: floats and 32-bit integers.
        not_finite: samples that are infinite or not a number.
    """

    kind: str
    mode: str
    size: tuple[int, int]
    frames: int
    turned: bool
    transparent: bool
    deep: bool
    profile: str = ""
    span: str = ""
    not_finite: int = 0


def describe_picture(source: Path | bytes, *, name: str | None = None) -> tuple[PictureFacts, Image.Image]:
    """Return what `read_picture` reads, and what the file says of it. Raises `PictureError` as that does."""
    with _opened(source, name) as opened:
        developed = _developed(opened, "white")
        span = developed.span
        facts = PictureFacts(
            kind=opened.format or "",
            mode=opened.mode,
            size=developed.image.size,
            frames=getattr(opened, "n_frames", 1),
            turned=_orientation(opened) != 1,
            transparent=opened.has_transparency_data,
            deep=is_deep(opened),
            profile=developed.conversion.name if developed.conversion else "",
            span=str(span) if span and not opened.mode.startswith("I;16") and opened.format != "PNG" else "",
            not_finite=span.not_finite if span else 0,
        )
        return facts, developed.image


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
    """The image, decoded; whatever is wrong with it, inside the block too, becomes a `PictureError`."""
    called = name or (str(source) if isinstance(source, Path) else "(bytes)")
    try:
        data = read_file(source) if isinstance(source, Path) else bytes(source)
        if not data:
            raise ValueError("the file is empty")
        with contextlib.ExitStack() as stack:
            yield _decoded(data, called, stack)
    except _DECODER_ERRORS as error:
        raise PictureError(f"cannot read the picture {shown(called)}: {_reason(error)}") from error


def _decoded(data: bytes, name: str, stack: contextlib.ExitStack) -> Image.Image:
    """Open and decode an image for as long as ``stack`` is open; a PNG without its metadata if those are refused."""
    formats = [*DECODERS, *(["TGA"] if name.lower().endswith(TGA) else [])]
    try:
        opened: Image.Image = Image.open(io.BytesIO(data), formats=formats)
        needed = _bytes_to_decode(opened)
        if needed <= LARGEST_DECODED:
            stack.enter_context(opened)
            if needed > _SMALL_DECODED:
                stack.enter_context(_one_large)
            opened.load()
            return opened
    except (UnidentifiedImageError, ValueError, SyntaxError, struct.error, LookupError, TypeError):
        plain, profile = without_metadata(data) if is_png(data) else (data, None)
        if len(plain) == len(data):
            raise
        stack.pop_all().close()
        opened = _decoded(plain, name, stack)
        if profile:
            opened.info["icc_profile"] = profile
        return opened
    opened.close()
    raise OSError(
        f"{opened.width}x{opened.height} pixels of mode {opened.mode} would take about {needed / 2**30:.1f} GiB of "
        f"memory, more than {LARGEST_DECODED / 2**30:g} GiB"
    )


def _bytes_to_decode(image: Image.Image) -> int:
    """The most memory that `_decoded` and `_developed` take at once, from the header alone."""
    per_pixel = 2 if image.mode.startswith("I;16") else 1 if image.mode in ("1", "L", "P") else 4  # as Pillow stores it
    per_pixel += 4  # the result
    if image.has_transparency_data:
        per_pixel += 12  # with alpha, the background, both laid over each other
    elif is_deep(image):
        per_pixel += 5
    elif image.info.get("icc_profile") or image.mode in ("CMYK", "LAB"):
        per_pixel += 4
    if getattr(image, "is_animated", False) or image.format in ("WEBP", "AVIF", "JPEG2000", "HEIF"):
        per_pixel += 4  # the decoder's own canvas
    return per_pixel * image.width * image.height


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture, or none of " + ", ".join(DECODERS)
    if isinstance(error, MemoryError):
        return "there is too little memory to decode it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


class _Developed(NamedTuple):
    """An image in sRGB of mode RGB, and how it came to be so."""

    image: Image.Image
    conversion: Conversion | None
    span: Range | None


def _developed(opened: Image.Image, background: str) -> _Developed:
    """An image as it is shown."""
    span = sample_range(opened) if is_deep(opened) else None
    plain = opened if span is None else eight_bits(opened, span)
    conversion = conversion_to_srgb(opened.info.get("icc_profile"), plain.mode)
    turn = _TURNS.get(_orientation(opened))
    image = flattened(plain, background, conversion)
    return _Developed(image if turn is None else image.transpose(turn), conversion, span)


def flattened(image: Image.Image, background: str = "white", conversion: Conversion | None = None) -> Image.Image:
    """Return an image of 8 bits per channel as mode RGB, on ``background`` where it is transparent."""
    if not image.has_transparency_data:
        return _in_srgb(image, conversion)
    opaque = image.convert("RGBA")
    if conversion is not None:
        alpha = opaque.getchannel("A")
        opaque = _in_srgb(opaque.convert(conversion.mode), conversion)
        opaque.putalpha(alpha)
    behind = Image.new("RGBA", opaque.size, ImageColor.getrgb(background))
    return Image.alpha_composite(behind, opaque).convert("RGB")


def _in_srgb(image: Image.Image, conversion: Conversion | None) -> Image.Image:
    if conversion is None:
        return image.convert("RGB")
    return convert(image if image.mode == conversion.mode else image.convert(conversion.mode), conversion)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none or the EXIF data are damaged."""
    try:
        found: Any = image.getexif().get(_ORIENTATION, 1)
    except (*_DECODER_ERRORS, Warning):
        return 1
    return found if found in _TURNS else 1


FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95}),
    ".jpeg": ("JPEG", {"quality": 95}),
    ".webp": ("WEBP", {"quality": 95}),
    ".jpe": ("JPEG", {"quality": 95}),
    ".jfif": ("JPEG", {"quality": 95}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
    **({".avif": ("AVIF", {"quality": 90})} if "AVIF" in DECODERS else {}),
}
"""Suffix -> Pillow's format and its options. GIF is read but not written: 256 colours are too few."""


PLAIN, NOTHING = Writing(), Extras()


def written_suffix(kind: str, hint: str = "") -> str:
    """The suffix of a format, given as png or .PNG. Raises `UnknownNameError` where it cannot be written."""
    suffix = "." + kind.lower().removeprefix(".")
    if suffix not in FORMATS:
        known = [known.removeprefix(".") for known in FORMATS]
        raise UnknownNameError("picture format to write", suffix.removeprefix("."), known, hint=hint)
    return suffix


def save_picture(picture: Image.Image, path: Path, writing: Writing = PLAIN, extras: Extras = NOTHING) -> None:
    """Write a picture atomically, in the format that the suffix of ``path`` says (`FORMATS`).

    Raises:
        PictureError: the format cannot hold it.
        CheckpointError: the file cannot be written.
    """
    encoded = encode_picture(picture, path, writing, extras)

    def write(partial: Path) -> None:
        partial.write_bytes(encoded)

    write_atomically(path, write)


def encode_picture(picture: Image.Image, name: PurePath, writing: Writing = PLAIN, extras: Extras = NOTHING) -> bytes:
    """The content of a file called ``name``, in the format that its suffix says (`FORMATS`). Raises `PictureError`."""
    kind, options = FORMATS[name.suffix.lower()]
    options = dict(options)
    if writing.quality is not None and "quality" in options:
        options["quality"] = writing.quality
    if writing.profile and kind not in ("BMP", "DIB"):
        options["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if writing.metadata and extras.exif and kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF"):
        options["exif"] = extras.exif
    if writing.alpha and extras.alpha is not None and kind in ("PNG", "WEBP", "TIFF", "AVIF", "JPEG2000"):
        picture = picture.copy()
        picture.putalpha(extras.alpha.resize(picture.size, Image.Resampling.LANCZOS))
    encoded = io.BytesIO()
    try:
        picture.save(encoded, kind, **options)
    except (OSError, ValueError) as error:
        raise PictureError(f"cannot write {shown(str(name))} as {kind}: {error}") from error
    return encoded.getvalue()
