"""Where images come from: folders, archives, lists of images, data sets of two domains."""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from PIL import Image

from cyclevar.core.data.images import PICTURE_SUFFIXES, read_file, read_picture
from cyclevar.core.errors import PictureError

_log = logging.getLogger(__name__)


class PictureSource(Protocol):
    """Where a list of pictures comes from."""

    def read(self, name: str) -> Image.Image:
        """The picture in RGB; raises PictureError."""

    def content(self, name: str) -> bytes:
        """The file as it is; raises OSError or ValueError with the reason."""

    def bytes_of(self, name: str) -> int:
        """The length of the file."""


@dataclass(frozen=True)
class FolderSource:
    """Pictures in a folder, named by their path relative to it, with forward slashes."""

    root: Path

    def names(self) -> list[str]:
        """Every picture at any depth, sorted. A sub-folder that may not be entered is logged."""
        found = list[str]()
        for folder, inside, files in os.walk(self.root, onerror=_pass_over):
            inside[:] = [name for name in inside if not name.startswith(".")]
            below = Path(folder).relative_to(self.root)
            found += [
                (below / name).as_posix()
                for name in files
                if name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")
            ]
        return sorted(found)

    def read(self, name: str) -> Image.Image:
        return read_picture(self.root / name)

    def content(self, name: str) -> bytes:
        return read_file(self.root / name)

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
        """16 hex digits over the names and file sizes of every part; other data, other fingerprint."""
        digest = hashlib.sha256()
        for title, part in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            for domain, pictures in zip(self.domains, part or (), strict=False):
                digest.update(f"[{title} {domain}]\n".encode())
                digest.update("".join(f"{n}\t{pictures.source.bytes_of(n)}\n" for n in pictures.names).encode())
        return digest.hexdigest()[:16]
