"""Unpaired data sets: two domains, each a list of pictures, in a training, a validation and a test part.

:func:`open_dataset` finds out which of the accepted layouts it was given:

- nothing or ``"emoji"``: the built-in emoji, Noto and Fluent (:mod:`cyclevar.core.data.builtin`);
- CycleGAN: ``trainA trainB``, perhaps ``testA testB``, ``valA valB``;
- CycleGAN-Turbo: ``train_A train_B``, perhaps ``test_A test_B``, ``val_A val_B``,
  ``fixed_prompt_a.txt fixed_prompt_b.txt``;
- one folder that holds exactly two sub-folders of pictures; or two folders.

Pictures may lie in nested folders; hidden files and folders are passed over. Where there is no validation part, some of
each domain's training pictures, drawn by a hash of their names, are held out for it (`HoldOut`).
"""

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
from cyclevar.core.data.pictures import (
    PICTURE_SUFFIXES,
    UNREAD_SUFFIXES,
    describe_unread,
    read_file,
    read_picture,
    unread_hint,
)
from cyclevar.core.errors import ConfigError, DataError, PictureError, PluginError
from cyclevar.core.manager import Manager, get_manager

_log = logging.getLogger(__name__)

_LAYOUTS = (
    "trainA + trainB [+ testA + testB, valA + valB], "
    "train_A + train_B [+ test_A + test_B, fixed_prompt_a.txt + fixed_prompt_b.txt], "
    "exactly two sub-folders of pictures, or two folders"
)
_KINDS = ", ".join(suffix.removeprefix(".") for suffix in PICTURE_SUFFIXES)
_PART_NAMES = {"train", "test", "val", "valid", "validation"}


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
            inside[:] = [name for name in inside if not name.startswith(".")]
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


def open_dataset(
    spec: str | Path | None = None,
    *,
    other: str | Path | None = None,
    skin_tones: bool = False,
    hold_out: HoldOut | None = None,
) -> UnpairedDataset:
    """Open the built-in emoji (``None`` or ``"emoji"``), a plugin's data set, a folder in one of the layouts, or two.

    Args:
        spec: which data.
        other: the folder of domain B, if ``spec`` is the folder of domain A alone.
        skin_tones: add the skin-tone variants of the built-in emoji to its training part; other data have none.
        hold_out: how many images to hold out, where folders have no validation part.

    Raises:
        DataError: a folder is missing, empty, or in no accepted layout.
        ConfigError: a second folder beside the built-in emoji.
    """
    if spec is None or spec == "emoji":
        if other is not None:
            raise ConfigError(
                f"a second folder, {other}, was given beside the built-in emoji",
                expected="both folders, or neither",
                hint="to use a folder of your own that is called emoji, write ./emoji",
            )
        from cyclevar.core.data.builtin import open_emoji

        return open_emoji(skin_tones=skin_tones)
    manager = get_manager()
    if str(spec) in manager.registry.names("dataset"):
        return _registered(manager, str(spec), other)
    root, hold_out = _folder(Path(spec)), hold_out or HoldOut()
    if other is not None:
        second = _folder(Path(other))
        return _two_folders(f"{root.name}-{second.name}", root, second, hold_out)
    for joint in ("", "_"):
        if any((root / f"train{joint}{domain}").is_dir() for domain in "AB"):
            return _parted(root, joint, hold_out)
    return _two_folders(root.name, *_two_subfolders(root), hold_out)


def _registered(manager: Manager, name: str, other: str | Path | None) -> UnpairedDataset:
    """The data set of that name that a plugin brings."""
    if other is not None:
        raise ConfigError(
            f"a second folder, {other}, was given beside the data set {name} of a plugin",
            expected="a folder for each domain, or the data set alone",
            hint=f"to use a folder of your own that is called {name}, write ./{name}",
        )
    found = manager.build("dataset", name, {})
    if not isinstance(found, UnpairedDataset):
        owner = manager.registry.get("dataset", name).owner
        raise PluginError(f"the data set {name!r} of {owner} is {found!r}", expected="an UnpairedDataset")
    return found


def _folder(path: Path) -> Path:
    if not path.is_dir():
        problem = f"{path} is a file" if path.exists() else f"the folder {path} does not exist"
        raise DataError(problem, expected=f"a folder with {_LAYOUTS}", hint="check the path")
    return path.resolve()


def _pictures(folder: Path) -> PictureList:
    source = FolderSource(folder)
    names, unread = source.names(), source.unread()
    if not names:
        found = f", but {describe_unread(unread)}" if unread else ""
        hint = unread_hint(unread) if unread else ""
        raise DataError(
            f"no pictures in {folder}{found}", expected=f"files ending in {_KINDS}, nested folders allowed", hint=hint
        )
    if unread:
        _log.warning("%s in %s are not read: %s", describe_unread(unread), folder, unread_hint(unread))
    return PictureList(source, names)


def _parted(root: Path, joint: str, hold_out: HoldOut) -> UnpairedDataset:
    """The layouts of CycleGAN (``joint`` "") and CycleGAN-Turbo ("_")."""
    train, validation, test = (_part(root, f"{stem}{joint}") for stem in ("train", "val", "test"))
    assert train is not None
    if validation is None:
        train, validation = _hold_out(train, hold_out)
    return UnpairedDataset(root.name, ("A", "B"), train, validation, test, prompts=_prompts(root))


def _part(root: Path, stem: str) -> Part | None:
    a, b = root / f"{stem}A", root / f"{stem}B"
    if a.is_dir() != b.is_dir():
        there, missing = (a, b) if a.is_dir() else (b, a)
        raise DataError(f"{root} has {there.name} but no {missing.name}", expected=_LAYOUTS)
    return (_pictures(a), _pictures(b)) if a.is_dir() else None


def _prompts(root: Path) -> tuple[str, str] | None:
    a, b = root / "fixed_prompt_a.txt", root / "fixed_prompt_b.txt"
    if not a.exists() and not b.exists():
        return None
    try:
        texts = a.read_text("utf-8-sig").strip(), b.read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the prompts of {root}: {error}", expected=f"{a.name} and {b.name} in UTF-8"
        ) from None
    for file, text in zip((a, b), texts, strict=True):
        if len(text.splitlines()) != 1:
            raise DataError(f"{file} holds {len(text.splitlines())} lines of text", expected="one line, the prompt")
    return texts


def _two_subfolders(root: Path) -> tuple[Path, Path]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = FolderSource(root).names()
    holding = [folder for folder in folders if any(name.startswith(f"{folder.name}/") for name in names)]
    loose = sum("/" not in name for name in names)
    if len(holding) == 2 and not loose and not {folder.name.lower() for folder in holding} <= _PART_NAMES:
        return holding[0], holding[1]
    found = f"{loose} pictures and {len(holding)} sub-folders of pictures"
    if holding:
        found += " (" + ", ".join(folder.name for folder in holding[:6]) + (", ..." if len(holding) > 6 else "") + ")"
    raise DataError(
        f"{root} is in no known layout: it holds {found}",
        expected=_LAYOUTS,
        hint=f"pictures end in {_KINDS}; for one folder a domain, give both folders",
    )


def _two_folders(name: str, a: Path, b: Path, hold_out: HoldOut) -> UnpairedDataset:
    train, validation = _hold_out((_pictures(a), _pictures(b)), hold_out)
    return UnpairedDataset(name, _domain_names(a, b), train, validation)


def _domain_names(a: Path, b: Path) -> tuple[str, str]:
    """The last folder names in which the paths differ: .../horse/train, .../zebra/train give horse, zebra."""
    for names in zip(reversed(a.parts), reversed(b.parts), strict=False):
        if names[0] != names[1]:
            return names
    raise DataError(f"{a} was given for both domains", expected="two different folders")


def _hold_out(part: Part, hold_out: HoldOut) -> tuple[Part, Part | None]:
    """Take the validation pictures out of the training pictures."""
    counts = [hold_out.count(len(pictures)) for pictures in part]
    if 0 in counts:
        return part, None
    pairs = [_take(pictures, count) for pictures, count in zip(part, counts, strict=True)]
    return (pairs[0][0], pairs[1][0]), (pairs[0][1], pairs[1][1])


def _take(pictures: PictureList, count: int) -> tuple[PictureList, PictureList]:
    drawn = sorted(pictures.names, key=lambda name: hashlib.sha256(os.fsencode(f"validation:{name}")).digest())
    held = set(drawn[:count])
    rest = [name for name in pictures.names if name not in held]
    return PictureList(pictures.source, rest), PictureList(pictures.source, drawn[:count])
