"""Published weights by name: of a preset, ``FAMILY/PRESET``, or of a file as it is called on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cyclevar.core.config.families import FamilyConfig, PublishedFile
from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.weights.hub import FOLDERS, locate


def family_config(family: str) -> type[FamilyConfig]:
    """The settings class of a family. Raises `UnknownNameError` for a family that nobody registered."""
    config = get_manager().registry.get("backbone", family).load_config()
    assert isinstance(config, type)
    assert issubclass(config, FamilyConfig)
    return config


def published_files(name: str) -> list[PublishedFile]:
    """The files of a preset (``var/d16``), or the file of that name (``var_d16.pth``).

    Raises `UnknownNameError` for another name.
    """
    names = dict(_by_name())
    if name not in names:
        raise UnknownNameError("published model", name, names, hint="`cyclevar models` lists them")
    return names[name]


def all_published() -> dict[str, list[PublishedFile]]:
    """Family -> its published files, those without a preset too."""
    return {family: list(family_config(family).published()) for family in get_manager().registry.names("backbone")}


def _by_name() -> Iterator[tuple[str, list[PublishedFile]]]:
    for family in get_manager().registry.names("backbone"):
        config = family_config(family)
        for preset in config.presets():
            files = [file for file in config.published() if preset in file.presets]
            if files:
                yield f"{family}/{preset}", files
        yield from ((file.name.rstrip("/"), [file]) for file in config.published())


def is_published(name: str) -> bool:
    """Whether ``name`` is that of a preset or file that was published."""
    return name.rstrip("/") in dict(_by_name())


def find_weights(given: str | Path) -> Path:
    """A weights file or folder on this disk: as it is given, or that of a published name.

    Raises `CheckpointError` for a published file that is not on this disk.
    """
    path, name = Path(given), str(given).rstrip("/")
    if path.exists() or not is_published(name):
        return path
    [file, *others] = published_files(name)
    if others:
        raise ConfigError(f"{name} is several files", expected=" or ".join(one.name for one in (file, *others)))
    return require(file, name)


def require(file: PublishedFile, name: str | None = None) -> Path:
    """Where a published file lies. Raises `CheckpointError` if it is not on this disk, telling how to get it."""
    found = locate(file)
    if found is None:
        raise CheckpointError(
            f"{file.name} is not on this disk",
            expected=f"it in a folder that {FOLDERS} names, or in the Hugging Face cache",
            hint=f"`cyclevar models fetch {name or file.name}` gets it",
        )
    return found.path
