"""The built-in data: the same emoji in two styles, Noto (domain A) and Fluent (domain B), 128 px on white.

``emoji/ATTRIBUTION.md`` says where they come from; ``tools/build_emoji.py`` makes them, and says how they were split.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from cyclevar.core.data.sources import ArchiveSource, Part, PictureList, UnpairedDataset

_FOLDER = Path(__file__).parent / "emoji"
_SKIN_TONES = {f"{point:x}" for point in range(0x1F3FB, 0x1F400)}
_NOT_IN_BASE = _SKIN_TONES | {"fe0f"}


def open_emoji(*, skin_tones: bool = False) -> UnpairedDataset:
    """600 emoji only in A and 600 others only in B for training; 97 validation and 297 test pairs of yet others.

    Within a part the order is random but fixed, so the first few are a fair sample. ``skin_tones`` adds, to the
    training part, the skin-tone variants of its emoji; no variant of a validation or test emoji is ever trained on.
    """
    split = json.loads((_FOLDER / "split.json").read_text("utf-8"))
    noto, fluent = (ArchiveSource(zipfile.ZipFile(_FOLDER / f"{style}.zip")) for style in ("noto", "fluent"))

    def both(names: list[str]) -> Part:
        return PictureList(noto, names), PictureList(fluent, names)

    train_a, train_b = split["train_a"], split["train_b"]
    if skin_tones:
        variants = variants_by_base(noto.names())
        train_a, train_b = ([name for base in part for name in variants[base]] for part in (train_a, train_b))
    return UnpairedDataset(
        name="emoji",
        domains=("noto", "fluent"),
        train=(PictureList(noto, train_a), PictureList(fluent, train_b)),
        validation=both(split["validation"]),
        test=both(split["test"]),
        paired=True,
    )


def base_of(code: str) -> str:
    """The code points left when skin tones and variation selectors are taken out: 1f44b-1f3fd -> 1f44b."""
    return "-".join(point for point in code.split("-") if point not in _NOT_IN_BASE)


def variants_by_base(codes: list[str]) -> dict[str, list[str]]:
    """Base emoji -> the base and its skin-tone variants, in the order given."""
    variants: dict[str, list[str]] = {}
    for code in codes:
        variants.setdefault(base_of(code), []).append(code)
    return variants
