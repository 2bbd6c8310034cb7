"""Unpaired data sets: two domains, each a list of pictures, in a training, a validation and a test part.

:func:`open_dataset` finds out which of the accepted layouts it was given:

- nothing or ``"emoji"``: the built-in emoji, Noto and Fluent (:mod:`cyclevar.core.data.emoji`);
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
from pathlib import Path

from cyclevar.core.config.loop import DataConfig
from cyclevar.core.data.image_formats import PICTURE_SUFFIXES, describe_unread, unread_hint
from cyclevar.core.data.sources import FolderSource, HoldOut, Part, PictureList, UnpairedDataset, require_enough
from cyclevar.core.errors import ConfigError, DataError, PluginError
from cyclevar.core.extension.manager import Manager, get_manager

_log = logging.getLogger(__name__)

_LAYOUTS = (
    "trainA + trainB [+ testA + testB, valA + valB], "
    "train_A + train_B [+ test_A + test_B, fixed_prompt_a.txt + fixed_prompt_b.txt], "
    "exactly two sub-folders of pictures, or two folders"
)
_KINDS = ", ".join(suffix.removeprefix(".") for suffix in PICTURE_SUFFIXES)
_PART_NAMES = {"train", "test", "val", "valid", "validation"}


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
        from cyclevar.core.data.emoji import open_emoji

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


def open_training_data(data: DataConfig) -> UnpairedDataset:
    """Open the data that settings name, with their own validation part.

    Raises what `open_dataset` raises, and `DataError` if there are too few images to train and validate on.
    """
    hold_out = HoldOut(data.validation_share, data.validation_min)
    dataset = open_dataset(data.source, other=data.other, skin_tones=data.skin_tones, hold_out=hold_out)
    require_enough(dataset, hold_out)
    return dataset
