"""Rebuild the built-in data set: the same emoji drawn in two styles, Noto Emoji and Fluent Emoji Flat.

    python tools/build_emoji.py [--packages DIR] [--out core/data/emoji]

Needs ``npm`` (unless --packages names a folder with both tarballs) and ``pip install resvg-py``. Two runs on the same
packages, Pillow and resvg-py write the same bytes.

Sources: the npm packages ``@iconify-json/noto`` (Apache-2.0) and ``@iconify-json/fluent-emoji-flat`` (MIT), joined by
their ``chars.json`` (code points -> icon name). Each shared emoji is rendered at 128 px on white.

Picture format: 128 colours (median cut refined by k-means, no dithering), stored as lossless WebP. Measured on random
samples of 100 to 160 pictures and scaled to all 3,139: exact lossless WebP takes 11.8 MB (Noto) and 5.8 MB (Fluent);
PNG 19.1 and 11.6 MB; WebP at quality 90 takes 9.0 and 7.0 MB and, because it halves the colour resolution, has only 34
dB; 128 colours take 7.5 and 4.8 MB at 47.7 and 54.6 dB, 40 dB for the worst. That is the smallest, and closer to the
drawings than any lossy WebP.

Split: the base emoji (those without a skin tone) are ordered by a seeded hash of their code points, never by the code
points themselves, since neighbours there are alike and categories would leak into the styles. The parts keep that
order, so that the first few of a part are a random sample of it. A skin-tone variant belongs to the base that is left
when U+1F3FB..1F3FF and U+FE0F are taken out. A variant without a base in both sets could not be placed; there is none
today, and the script stops if a later release brings one.
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
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

SIZE = 128
COLOURS = 128
SEED = 20250
PARTS = {"train_a": 600, "train_b": 600, "validation": 97, "test": 297}
SHARED, SHARED_BASES = 3139, 1594
LARGEST_ARCHIVE = 14_000_000
SKIN_TONES = {f"{point:x}" for point in range(0x1F3FB, 0x1F400)}
VARIATION_SELECTOR = "fe0f"


@dataclass(frozen=True)
class Source:
    """One icon set: the npm package it comes from and the archive it becomes."""

    archive: str
    package: str
    version: str

    @property
    def tarball(self) -> str:
        return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


SOURCES = (
    Source("noto.zip", "@iconify-json/noto", "1.2.9"),
    Source("fluent.zip", "@iconify-json/fluent-emoji-flat", "1.2.6"),
)


@dataclass(frozen=True)
class IconSet:
    """``chars``: code points joined by "-" -> icon name; ``icons``: the set in Iconify's JSON layout."""

    chars: dict[str, str]
    icons: dict[str, Any]

    @classmethod
    def from_tarball(cls, path: Path) -> IconSet:
        with tarfile.open(path) as archive:
            chars, icons = (
                json.loads(archive.extractfile(f"package/{name}.json").read())  # type: ignore[union-attr]
                for name in ("chars", "icons")
            )
        return cls(chars, icons)

    def svg(self, code: str) -> str:
        icon = {"left": 0, "top": 0, **{k: self.icons[k] for k in ("width", "height")}}
        icon |= self.icons["icons"][self.chars[code]]
        box = " ".join(str(icon[key]) for key in ("left", "top", "width", "height"))
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box}" width="{SIZE}" height="{SIZE}">{icon["body"]}</svg>'
        )


def base_of(code: str) -> str:
    """The code points left when skin tones and variation selectors are taken out."""
    return "-".join(point for point in code.split("-") if point not in SKIN_TONES and point != VARIATION_SELECTOR)


def has_skin_tone(code: str) -> bool:
    return not SKIN_TONES.isdisjoint(code.split("-"))


def render(svg: str) -> bytes:
    """A 128 px WebP of the drawing on white."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, background="#ffffff", skip_system_fonts=True)
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    if picture.size != (SIZE, SIZE):
        raise SystemExit(f"a drawing came out at {picture.size}, expected {SIZE} x {SIZE}")
    reduced = picture.quantize(COLOURS, kmeans=1, dither=Image.Dither.NONE).convert("RGB")
    webp = io.BytesIO()
    reduced.save(webp, "WEBP", lossless=True, quality=100, method=4)
    return webp.getvalue()


def write_archive(path: Path, icons: IconSet, codes: Iterable[str]) -> None:
    """Fixed timestamps and order; stored, not deflated, since WebP is already compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for code in codes:
            member = zipfile.ZipInfo(f"{code}.webp", date_time=(1980, 1, 1, 0, 0, 0))
            member.external_attr = 0o644 << 16
            member.create_system = 3
            archive.writestr(member, render(icons.svg(code)))
    if path.stat().st_size > LARGEST_ARCHIVE:
        raise SystemExit(f"{path} has {path.stat().st_size} bytes, more than {LARGEST_ARCHIVE}")


def split(bases: Iterable[str]) -> dict[str, list[str]]:
    """Part name -> its base emoji, in the order of the seeded hash."""
    drawn = sorted(bases, key=lambda code: hashlib.sha256(f"{SEED}:{code}".encode()).digest())
    parts, begin = {}, 0
    for name, count in PARTS.items():
        parts[name] = drawn[begin : begin + count]
        begin += count
    if begin != len(drawn):
        raise SystemExit(f"the parts hold {begin} base emoji, but there are {len(drawn)}")
    return parts


def shared_codes(sets: Iterable[IconSet]) -> list[str]:
    """The code points that both sets draw, sorted; stops when their number is not the known one."""
    codes = set.intersection(*(set(icons.chars) for icons in sets))
    bases = {code for code in codes if not has_skin_tone(code)}
    if (len(codes), len(bases)) != (SHARED, SHARED_BASES):
        raise SystemExit(
            f"{len(codes)} shared code points, {len(bases)} without skin tones; expected {SHARED} and {SHARED_BASES}: "
            "the packages changed, so check the split and update the counts"
        )
    orphans = {base_of(code) for code in codes} - {base_of(code) for code in bases}
    if orphans:
        raise SystemExit(f"skin-tone variants without a base emoji in both sets: {sorted(orphans)}")
    return sorted(codes)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the built-in emoji data set.")
    parser.add_argument(
        "--packages", type=Path, help="folder with both npm tarballs (default: fetch them with npm pack)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "core/data/emoji")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        packages = options.packages or Path(scratch)
        if options.packages is None:
            for source in SOURCES:
                subprocess.run(["npm", "pack", f"{source.package}@{source.version}"], cwd=packages, check=True)
        sets = [IconSet.from_tarball(packages / source.tarball) for source in SOURCES]
    codes = shared_codes(sets)
    options.out.mkdir(parents=True, exist_ok=True)
    parts = {"seed": SEED, **split(code for code in codes if not has_skin_tone(code))}
    (options.out / "split.json").write_text(json.dumps(parts, indent=0) + "\n", encoding="utf-8")
    for source, icons in zip(SOURCES, sets, strict=True):
        path = options.out / source.archive
        write_archive(path, icons, codes)
        print(f"{path}: {len(codes)} pictures, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
