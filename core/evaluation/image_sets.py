"""Sets of pictures to judge: read, compared for what they share, matched by name."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cyclevar.core.data.batches import readable
from cyclevar.core.data.images import PICTURE_SUFFIXES
from cyclevar.core.data.sources import FolderSource, PictureList
from cyclevar.core.data.transforms import to_tensor
from cyclevar.core.errors import ConfigError, DataError


@dataclass(frozen=True)
class PictureSet:
    """Pictures ``[N,3,size,size]`` in [-1,1], their names, and hashes of what they show at their own size."""

    images: Tensor
    names: tuple[str, ...]
    hashes: tuple[str, ...]

    @property
    def stems(self) -> tuple[str, ...]:
        """The names without their suffixes; folders stay."""
        return tuple(Path(name).with_suffix("").as_posix() for name in self.names)


def read_set(pictures: PictureList, size: int, limit: int | None = None) -> PictureSet:
    """The first ``limit`` pictures that can be read. Raises `DataError` if none can."""
    images, names, hashes = [], [], []
    for name, picture in readable(pictures, limit):
        images.append(to_tensor(picture, size))
        names.append(name)
        hashes.append(hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest())
    return PictureSet(torch.stack(images), tuple(names), tuple(hashes))


def refuse_shared(sets: Mapping[str, PictureSet], *, tolerated: float = 0.0, hint: str = "") -> tuple[str, ...]:
    """Raise `DataError` where pictures stand in two of the sets, whatever they are called there.

    Up to a share ``tolerated`` of the smaller set they are only noted, a sentence each pair of sets: a few pictures
    that a data set holds twice change no figure.
    """
    notes = []
    for (one, ours), (other, theirs) in itertools.combinations(sets.items(), 2):
        known = dict(zip(theirs.hashes, theirs.names, strict=True))
        same = [(name, known[h]) for name, h in zip(ours.names, ours.hashes, strict=True) if h in known]
        if same:
            shown = ", ".join(a if a == b else f"{a} = {b}" for a, b in same[:3])
            more = f" and {len(same) - 3} more" if len(same) > 3 else ""
            if len(same) <= tolerated * min(len(ours.names), len(theirs.names)):
                notes.append(f"{one} and {other} share {len(same)} pictures: {shown}{more}.")
                continue
            raise DataError(
                f"{one} and {other} share {len(same)} pictures: {shown}{more}",
                expected="different pictures, or the figures come out too good",
                hint=hint or "take them out of one, or go on with --force",
            )
    return tuple(notes)


def open_folder(folder: Path) -> PictureList:
    """All pictures of a folder, at any depth, by name. Raises `DataError` where there are none."""
    if not folder.is_dir():
        raise DataError(f"the folder {folder} does not exist", expected="a folder of pictures", hint="check the path")
    source = FolderSource(folder)
    names = source.names()
    if not names:
        raise DataError(f"no pictures in {folder}", expected="files ending in " + ", ".join(PICTURE_SUFFIXES))
    return PictureList(source, sorted(names, key=lambda name: Path(name).with_suffix("").as_posix()))


def common_size(pictures: PictureList) -> int:
    """The shorter side of the smallest of these pictures."""
    return min(min(picture.size) for _, picture in readable(pictures))


def match_names(sets: Mapping[str, PictureSet]) -> tuple[dict[str, bool], tuple[str, ...]]:
    """Whether the first set and each other have the same stems, and what a reader must know where only some agree.

    With the same stems picture i of both is the same thing, since `open_folder` sorts by stem.
    """
    (first, ours), *others = sets.items()
    same, notes = {}, list[str]()
    for name, theirs in others:
        same[name] = ours.stems == theirs.stems
        agree = len(set(ours.stems) & set(theirs.stems))
        if agree and not same[name]:
            notes.append(
                f"Only {agree} names of {len(ours.names)} {first} and {len(theirs.names)} {name} pictures agree; they "
                "are not taken for pairs."
            )
    return same, tuple(notes)


def check_limit(limit: int) -> None:
    """Raise `ConfigError` unless at least two pictures may be judged."""
    if limit < 2:
        raise ConfigError(f"the limit is {limit}", expected="2 or more")
