"""Looking through a data set before anything is trained on it: what there is, what is bad, what is there twice.

Two pictures are *exact* duplicates where their files are equal, and *near* ones where 64 bits over their coarse
structure (a perceptual hash: signs of the lowest frequencies of a cosine transform) differ in `NEAR_BITS` at most and
their colours agree to `NEAR_COLOUR`: another size, another compression, a slight crop.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cyclevar.core.config.loop import DataConfig
from cyclevar.core.data.images import PictureFacts, describe_picture
from cyclevar.core.data.sources import PictureList, UnpairedDataset
from cyclevar.core.errors import PictureError

NEAR_BITS = 5
"""Of 64, in which the perceptual hashes of near duplicates may differ."""

NEAR_COLOUR = 8.0
"""Mean difference of 8 x 8 thumbnails, in levels of 255, up to which near duplicates may differ."""

SMALL, LARGE = 32, 50_000_000
"""A picture with a shorter side, in pixels, and one with more pixels, are pointed out."""

LEAST = 40
"""Pictures of each domain that a training needs, since some are held out."""

_ENDINGS = {"JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "TIFF": (".tif", ".tiff")}


@dataclass(frozen=True)
class Seen:
    """One picture that can be read: what its file says, the digest of that, and what near duplicates share."""

    name: str
    facts: PictureFacts
    digest: bytes
    structure: np.uint64
    thumbnail: NDArray[np.uint8]


@dataclass(frozen=True)
class PartReport:
    """The pictures of one domain in one part.

    Attributes:
        bad: name -> why it cannot be read.
        smallest, median, largest: width and height in pixels; the median of each.
        peculiar: what is out of the ordinary -> the names. All of these are read, as docs/data.md says.
    """

    part: str
    domain: str
    pictures: int
    bad: dict[str, str]
    smallest: tuple[int, int] | None
    median: tuple[int, int] | None
    largest: tuple[int, int] | None
    kinds: dict[str, int]
    modes: dict[str, int]
    peculiar: dict[str, list[str]]


@dataclass(frozen=True)
class Duplicates:
    """Pictures that are the same, as ``part/domain/name``.

    ``across``: they lie in two domains, in two parts (a picture that is trained on and judged by), or within one list.
    """

    kind: Literal["exact", "near"]
    across: Literal["domains", "parts", "none"]
    pictures: list[str]


@dataclass(frozen=True)
class DataReport:
    """What `check_dataset` found: ``problems`` are sentences on what to put right, ``remarks`` on what to know."""

    name: str
    fingerprint: str
    parts: list[PartReport]
    duplicates: list[Duplicates]
    problems: list[str]
    remarks: list[str]


def check_dataset(
    dataset: UnpairedDataset, *, workers: int = 4, progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None
) -> DataReport:
    """Read every picture once. ``progress`` is wrapped around what is gone through, given how many there are."""
    parts, seen = list[PartReport](), dict[str, Seen]()
    listed = [
        (part, domain, pictures)
        for part in ("train", "validation", "test")
        for domain, pictures in zip(dataset.domains, getattr(dataset, part) or (), strict=False)
    ]
    with ThreadPoolExecutor(workers, thread_name_prefix="check") as pool:
        looks = _ahead(pool, [(pictures, name) for _, _, pictures in listed for name in pictures.names], 8 * workers)
        steps = iter(looks if progress is None else progress(looks, sum(len(one) for _, _, one in listed)))
        for part, domain, pictures in listed:
            found = list(islice(steps, len(pictures)))
            parts.append(_report(part, domain, pictures, found))
            seen |= {f"{part}/{domain}/{one.name}": one for one in found if isinstance(one, Seen)}
    duplicates = find_duplicates(seen)
    return DataReport(dataset.name, dataset.fingerprint(), parts, duplicates, *_judge(parts, duplicates))


def _ahead(
    pool: ThreadPoolExecutor, items: Sequence[tuple[PictureList, str]], ahead: int
) -> Iterator[Seen | tuple[str, str]]:
    """`look` at every item, in order, a few ahead of who asks."""
    for begin in range(0, len(items), ahead):
        yield from pool.map(lambda item: look(*item), items[begin : begin + ahead])


def look(pictures: PictureList, name: str) -> Seen | tuple[str, str]:
    """Read one picture; its name and the reason where that fails."""
    try:
        content = pictures.source.content(name)
        facts, picture = describe_picture(content, name=name)
    except PictureError as error:
        return name, error.problem.rpartition(": ")[2]
    except (OSError, ValueError) as error:
        return name, getattr(error, "strerror", None) or str(error)
    thumbnail = np.asarray(picture.resize((8, 8), Image.Resampling.BOX))
    return Seen(name, facts, hashlib.sha256(content).digest(), perceptual_hash(picture), thumbnail)


def perceptual_hash(picture: Image.Image) -> np.uint64:
    """64 bits: which of the 8 x 8 lowest frequencies of the grey 32 x 32 picture lie above their median."""
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), np.float64)
    place = np.arange(32)
    cosines = np.cos(np.pi / 32 * (place[None] + 0.5) * place[:8, None])
    low = (cosines @ grey @ cosines.T).round(6).ravel()  # rounded: where a picture is flat, no noise decides
    return np.uint64(np.packbits(low > np.median(low[1:])).view(np.uint64)[0])


def _report(part: str, domain: str, pictures: PictureList, found: Sequence[Seen | tuple[str, str]]) -> PartReport:
    good = [one for one in found if isinstance(one, Seen)]
    sizes = sorted((one.facts.size for one in good), key=lambda size: size[0] * size[1])
    peculiar: dict[str, list[str]] = {}
    for one in good:
        for what in _peculiarities(one):
            peculiar.setdefault(what, []).append(one.name)
    return PartReport(
        part=part,
        domain=domain,
        pictures=len(pictures),
        bad=dict(one for one in found if not isinstance(one, Seen)),
        smallest=sizes[0] if sizes else None,
        median=_median(sizes) if sizes else None,
        largest=sizes[-1] if sizes else None,
        kinds=dict(Counter(one.facts.kind for one in good).most_common()),
        modes=dict(Counter(one.facts.mode for one in good).most_common()),
        peculiar=peculiar,
    )


def _median(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    width, height = (int(statistics.median_low(sides)) for sides in zip(*sizes, strict=True))
    return width, height


def _peculiarities(one: Seen) -> Iterator[str]:
    facts = one.facts
    ending = PurePosixPath(one.name.lower()).suffix
    if ending and ending not in _ENDINGS.get(facts.kind, (f".{facts.kind.lower()}",)):
        yield "wrong ending"
    if facts.turned:
        yield "turned by EXIF"
    if facts.frames > 1 and facts.kind != "MPO":
        yield "animated"
    if facts.transparent:
        yield "transparent"
    if facts.deep:
        yield "more than 8 bits"
    if facts.mode == "CMYK":
        yield "CMYK"
    if min(facts.size) < SMALL:
        yield f"under {SMALL} pixels"
    if facts.size[0] * facts.size[1] > LARGE:
        yield f"over {LARGE // 10**6} megapixels"


def find_duplicates(seen: dict[str, Seen]) -> list[Duplicates]:
    """Groups of equal and of nearly equal pictures, by ``part/domain/name``; equal ones alone make no near group."""
    keys = list(seen)
    groups: dict[bytes, list[str]] = {}
    for key in keys:
        groups.setdefault(seen[key].digest, []).append(key)
    exact = [group for group in groups.values() if len(group) > 1]
    first = [group[0] for group in groups.values()]  # one of each, so that near groups tell something new
    near = [
        [key for index in group for key in groups[seen[first[index]].digest]]
        for group in _near_groups([seen[key] for key in first])
    ]
    found = [Duplicates("exact", _across(group), group) for group in exact]
    return found + [Duplicates("near", _across(group), group) for group in near]


def _across(keys: Sequence[str]) -> Literal["domains", "parts", "none"]:
    places = {tuple(key.split("/")[:2]) for key in keys}
    if len({domain for _, domain in places}) > 1:
        return "domains"
    return "parts" if len(places) > 1 else "none"


def _near_groups(seen: Sequence[Seen]) -> list[list[int]]:
    """Indices that hang together by `near_pairs`."""
    parent = list(range(len(seen)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    if seen:
        hashes = np.array([one.structure for one in seen])
        thumbnails = np.stack([one.thumbnail for one in seen]).astype(np.int16)
        for i, j in near_pairs(hashes):
            if np.abs(thumbnails[i] - thumbnails[j]).mean() <= NEAR_COLOUR:
                parent[root(j)] = root(i)
    groups: dict[int, list[int]] = {}
    for index in range(len(seen)):
        groups.setdefault(root(index), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def near_pairs(hashes: NDArray[np.uint64], bits: int = NEAR_BITS) -> Iterator[tuple[int, int]]:
    """Pairs of indices whose hashes differ in at most ``bits`` bits; a pair may come several times.

    Cut into ``bits + 1`` bands, two such hashes agree in one band at least; so only those that do are compared.
    """
    bounds = np.linspace(0, 64, bits + 2).astype(np.uint64)
    for low, high in pairwise(bounds):
        band = (hashes >> low) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=band[order[:1]] + np.uint64(1)))
        for members in np.split(order, starts[1:]):
            for place, one in enumerate(members[:-1]):
                others = members[place + 1 :]
                different = np.unpackbits((hashes[others] ^ hashes[one])[:, None].view(np.uint8), axis=1).sum(axis=1)
                yield from ((int(one), int(other)) for other in others[different <= bits])


def _judge(parts: Sequence[PartReport], duplicates: Sequence[Duplicates]) -> tuple[list[str], list[str]]:
    problems, remarks = list[str](), list[str]()
    most = DataConfig().most_bad
    for one in parts:
        where, bad = f"{one.part}/{one.domain}", len(one.bad)
        if bad:
            stops = one.part == "train" and bad > most * one.pictures
            problems.append(
                f"{bad} of {one.pictures} pictures of {where} cannot be read, "
                + (f"more than data.most_bad ({most:.0%}): a training would stop" if stops else "and would be left out")
                + ": replace or remove them"
            )
        if one.part == "train" and one.pictures - bad < LEAST and not any(p.part == "validation" for p in parts):
            problems.append(f"{where} has {one.pictures - bad} pictures; a training needs {LEAST}, some to be held out")
    for kind, list_of in (("exact", problems), ("near", remarks)):
        for across, consequence in (
            ("domains", "are in both domains, where they teach that nothing need be changed: remove one"),
            ("parts", "are trained on and judged by: remove them from one part"),
            ("none", "are there more than once, and seen as often: remove all but one"),
        ):
            count = sum(one.kind == kind and one.across == across for one in duplicates)
            if count:
                (remarks if across == "none" else list_of).append(
                    f"{count} {'equal' if kind == 'exact' else 'nearly equal'} groups of pictures {consequence}"
                )
    return problems, remarks
