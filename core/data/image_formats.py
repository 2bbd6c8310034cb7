"""Formats of image files: which are read here, by their endings, and what is said of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import features

from cyclevar.core.runtime.files import shown

# Only these decoders run: Pillow knows formats (EPS) that start another program.
_ALWAYS: dict[str, tuple[str, ...]] = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "QOI": (".qoi",),
}
_OPTIONAL: dict[str, tuple[str, tuple[str, ...]]] = {
    "AVIF": ("avif", (".avif", ".avifs")),
    "JPEG2000": ("jpg_2000", (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx")),
}
_HEIF = (".heic", ".heics", ".heif", ".heifs", ".hif")
TGA = (".tga", ".icb", ".vda", ".vst")  # files without a signature: the name alone tells what they are


def _decoders() -> dict[str, tuple[str, ...]]:
    """Formats and their suffixes that can be read here; HEIF if pillow-heif is installed."""
    found = _ALWAYS | {name: ends for name, (feature, ends) in _OPTIONAL.items() if features.check(feature)}
    try:
        import pillow_heif
    except ImportError:
        return found
    pillow_heif.register_heif_opener()
    return found | {"HEIF": _HEIF}


DECODERS = _decoders()
"""Formats that are read here, with their endings."""


def suffixes_of(kind: str) -> tuple[str, ...]:
    """Return the endings of files of one of Pillow's formats."""
    return {**DECODERS, "MPO": DECODERS["JPEG"], "TGA": TGA}.get(kind, (f".{kind.lower()}",))


PICTURE_SUFFIXES = (*(suffix for suffixes in DECODERS.values() for suffix in suffixes), *TGA)
"""Endings of the files that are read."""

UNREAD_SUFFIXES = tuple(
    suffix
    for suffix in (
        *(suffix for _, suffixes in _OPTIONAL.values() for suffix in suffixes), *_HEIF,
        ".jxl", ".jxr", ".svg", ".svgz", ".eps", ".ai", ".pdf", ".psd", ".psb", ".xcf", ".exr", ".hdr", ".dds", ".ico",
        ".icns", ".pcx", ".sgi", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".mp4", ".mov",
        ".npy", ".npz", ".dcm", ".nii",
    )
    if suffix not in PICTURE_SUFFIXES
)  # fmt: skip
"""Endings of files that show something and are not read here."""


def describe_unread(names: Sequence[str]) -> str:
    """Count files that are not read by their endings, and name some: ``2 .heic and 1 .psd files (a.heic, ...)``."""
    kinds = Counter(Path(name).suffix.lower() for name in names).most_common()
    counts = [f"{count} {kind}" for kind, count in kinds]
    listed = counts[0] if len(counts) == 1 else f"{', '.join(counts[:-1])} and {counts[-1]}"
    first = ", ".join(shown(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{listed} {'file' if len(names) == 1 else 'files'} ({first})"


def unread_hint(names: Iterable[str]) -> str:
    """Return what to do about files that are not read."""
    heif = any(name.lower().endswith((".heic", ".heif", ".hif", ".heics", ".heifs")) for name in names)
    return "install pillow-heif, or convert them" if heif else "convert them to PNG or JPEG"
