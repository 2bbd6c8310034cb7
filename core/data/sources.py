"""Where images come from: folders, archives, lists of images, data sets of two domains."""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from cyclevar.core.data.fingerprints import UNREADABLE, digests
from cyclevar.core.data.image_formats import PICTURE_SUFFIXES, UNREAD_SUFFIXES
from cyclevar.core.data.images import read_file, read_picture
from cyclevar.core.errors import DataError, PictureError

_log = logging.getLogger(__name__)

_COPIES = ("@eaDir", "__MACOSX")  # thumbnails and resource forks that a NAS and macOS leave among images


class PictureSource(Protocol):
    """Where a list of pictures comes from."""

    def read(self, name: str) -> Image.Image:
        """The picture in RGB; raises PictureError."""

    def content(self, name: str) -> bytes:
        """The file as it is; raises OSError or ValueError with the reason."""

    def bytes_of(self, name: str) -> int:
        """The length of the file."""


class HoldOut(NamedTuple):
    """How many images of a domain are held out for validation: ``share`` of them, at least ``least``, at most 64.

    None if that were more than half of them.
    """

    share: float = 0.05
    least: int = 8

    def count(self, images: int) -> int:
        """Return how many of ``images`` are held out."""
        count = max(self.least, min(64, round(images * self.share)))
        return count if 2 * count <= images else 0

    @property
    def needed(self) -> int:
        """The images that a domain needs at least for some to be held out."""
        return 2 * self.least


@dataclass(frozen=True)
class FolderSource:
    """Pictures in a folder, named by their path relative to it, with forward slashes."""

    root: Path

    def names(self) -> list[str]:
        """Every picture at any depth, sorted. A sub-folder that may not be entered is logged."""
        return self._ending_in(PICTURE_SUFFIXES)

    def unread(self) -> list[str]:
        """Files at any depth that show something and are not read here, sorted."""
        return self._ending_in(UNREAD_SUFFIXES)

    def _ending_in(self, suffixes: tuple[str, ...]) -> list[str]:
        found = list[str]()
        for folder, inside, files in os.walk(self.root, onerror=_pass_over):
            inside[:] = [name for name in inside if not name.startswith(".") and name not in _COPIES]
            below = Path(folder).relative_to(self.root)
            found += [
                (below / name).as_posix()
                for name in files
                if name.lower().endswith(suffixes) and not name.startswith(".")
            ]
        return sorted(found)

    def read(self, name: str) -> Image.Image:
        return read_picture(self.root / name)

    def content(self, name: str) -> bytes:
        return read_file(self.root / name)

    def digests(self, names: Sequence[str]) -> list[str]:
        """What tells the content of each file (`cyclevar.core.data.fingerprints`)."""
        return digests(self.root, names)

    def bytes_of(self, name: str) -> int:
        try:
            return (self.root / name).stat().st_size
        except OSError:  # a link that leads nowhere; reading it will say so
            return 0


def _pass_over(error: OSError) -> None:
    _log.warning("the folder %s is passed over: %s", error.filename, error.strerror)


@dataclass(frozen=True)
class ArchiveSource:
    """WebP pictures in a zip archive, named by their file name without the suffix."""

    archive: zipfile.ZipFile

    def names(self) -> list[str]:
        return sorted(name.removesuffix(".webp") for name in self.archive.namelist())

    def read(self, name: str) -> Image.Image:
        return read_picture(self.archive.read(f"{name}.webp"), name=f"{self.archive.filename}/{name}.webp")

    def content(self, name: str) -> bytes:
        return self.archive.read(f"{name}.webp")

    def bytes_of(self, name: str) -> int:
        return self.archive.getinfo(f"{name}.webp").file_size


@dataclass(frozen=True)
class PictureList:
    """The pictures of one domain and part: ``len(pictures)``, ``pictures[i]`` (RGB).

    Attributes:
        names: what to call them: a relative path, or code points joined by "-".
        bad: name -> reason, of the pictures met so far that cannot be read. Each is logged once.
    """

    source: PictureSource
    names: list[str]
    bad: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Image.Image:
        """The picture in RGB; raises PictureError, and goes on doing so, if it cannot be read."""
        name = self.names[index]
        if name in self.bad:
            raise PictureError(self.bad[name])
        try:
            return self.source.read(name)
        except PictureError as error:
            if self.bad.setdefault(name, error.problem) is error.problem:  # one of several threads is the first
                _log.warning("%s; skipped", error.problem)
            raise


Part = tuple[PictureList, PictureList]


@dataclass(frozen=True)
class UnpairedDataset:
    """Pictures of two domains.

    Attributes:
        domains: the names of domain A and domain B.
        paired: whether item i of A and item i of B show the same thing in the validation and test parts.
        prompts: a text for each domain, where the data bring one.
    """

    name: str
    domains: tuple[str, str]
    train: Part
    validation: Part | None = None
    test: Part | None = None
    paired: bool = False
    prompts: tuple[str, str] | None = None

    def fingerprint(self) -> str:
        """16 hex digits over the prompts, and the names and contents of every part; other data, other fingerprint."""
        digest = hashlib.sha256()
        if self.prompts is not None:
            digest.update("\0".join(("[prompts]", *self.prompts, "")).encode())
        for title, part in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            for domain, pictures in zip(self.domains, part or (), strict=False):
                digest.update(os.fsencode(f"[{title} {domain}]\n"))
                lines = zip(pictures.names, _digests(pictures.source, pictures.names), strict=True)
                digest.update(os.fsencode("".join(f"{name}\t{content}\n" for name, content in lines)))
        return digest.hexdigest()[:16]

    def counts(self) -> str:
        """How many images there are to train on and to validate with, in words."""
        parts = ["no validation part"]
        if self.validation is not None:
            parts = [f"{len(images)} of {name}" for name, images in zip(self.domains, self.validation, strict=True)]
        train = [f"{len(images)} of {name}" for name, images in zip(self.domains, self.train, strict=True)]
        return f"{' and '.join(train)} to train on, {' and '.join(parts)} to validate with"


def require_enough(dataset: UnpairedDataset, hold_out: HoldOut) -> None:
    """Raise `DataError` for a data set without a validation part, or one of fewer than 2 images of a domain."""
    sizes = [len(images) for images in dataset.validation or ()]
    if min(sizes, default=0) < 2:
        raise DataError(
            f"{dataset.name} has too few images: {dataset.counts()}",
            expected=f"{hold_out.needed} or more of each domain, of which {hold_out.least} are held out for validation",
            hint="add images, or hold out fewer by --set data.validation_min=2 (docs/small_data.md)",
        )


def _digests(source: PictureSource, names: Sequence[str]) -> list[str]:
    """What tells the content of each file of a source."""
    if isinstance(source, FolderSource):
        return source.digests(names)
    found = list[str]()
    for name in names:
        try:
            found.append(hashlib.sha256(source.content(name)).hexdigest()[:32])
        except (OSError, ValueError):
            found.append(UNREADABLE)
    return found
