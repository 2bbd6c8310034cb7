"""Published weights: which files there are, where they lie on this disk, and how they come from the Hugging Face hub.

A file is looked for in the folders that ``CYCLEVAR_MODELS`` names, then in the cache of the hub; only `fetch` ever
downloads. Importing this imports neither torch nor the hub's client.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclevar.core.config.families import PublishedFile
from cyclevar.core.errors import CheckpointError

FOLDERS = "CYCLEVAR_MODELS"
"""The environment variable that names folders with weights, separated as in PATH."""


@dataclass(frozen=True)
class Found:
    """Where a published file lies, and which search found it: a folder of ``CYCLEVAR_MODELS``, or the hub's cache."""

    path: Path
    where: str


def locate(file: PublishedFile) -> Found | None:
    """The file on this disk, if it is there; nothing is downloaded or imported from the hub's client."""
    for folder, where in _places(file):
        path = folder / file.name
        if path.is_dir() if file.name.endswith("/") else path.is_file():
            return Found(path, where)
    return None


def _places(file: PublishedFile) -> Iterator[tuple[Path, str]]:
    """The folders in which the file may lie, best first, with what to call them."""
    for folder in own_folders():
        if file.name != "model.safetensors":  # a name that many repositories give to their file, and we to ours
            yield folder, FOLDERS
        yield folder / file.repository, FOLDERS
    repository = hub_cache() / f"models--{file.repository.replace('/', '--')}"
    reference = repository / "refs" / file.revision
    revision = reference.read_text().strip() if reference.is_file() else file.revision
    yield repository / "snapshots" / revision, "Hugging Face cache"


def own_folders() -> list[Path]:
    """The folders that ``CYCLEVAR_MODELS`` names."""
    return [Path(folder).expanduser() for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]


def hub_cache() -> Path:
    """The folder of the hub's cache, found as its client does: HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, ~/.cache."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def own_cache() -> Path:
    """The folder of what cyclevar keeps for itself and can make again: CYCLEVAR_CACHE, XDG_CACHE_HOME, ~/.cache."""
    folder = os.environ.get("CYCLEVAR_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "cyclevar"
    return Path(folder).expanduser()


@dataclass(frozen=True)
class Fetched:
    """A file that `fetch` made available; ``downloaded``: now, or it lay on this disk already.

    ``verified``: its hash was compared with one that is ``pinned`` (known to cyclevar), with the one that the ``hub``
    announced when it was downloaded, or with ``""``: none.
    """

    file: PublishedFile
    path: Path
    downloaded: bool
    verified: Literal["pinned", "hub", ""]


def fetch(
    file: PublishedFile, folder: Path | None = None, *, report: Callable[[str], None] = lambda line: None
) -> Fetched:
    """Make a published file available: as it lies on this disk, else downloaded to ``folder`` or the hub's cache.

    Its SHA-256 is compared with the pinned one; where none is known, that of a download with the hub's own. ``report``
    is told what takes long.

    Raises `CheckpointError` where it cannot be had: offline (``HF_HUB_OFFLINE=1``), no such file, another hash.
    """
    found = None if folder else locate(file)
    path = found.path if found else _download(file, folder, report)
    if file.sha256 is not None:
        report(f"checking {path}")
        _check(path, file.sha256)
        return Fetched(file, path, found is None, "pinned")
    if found:
        return Fetched(file, path, False, "")
    report(f"checking {path}")
    parts = [part for part in sorted(path.rglob("*")) if part.is_file()] if path.is_dir() else [path]
    announced = {part: _announced(part, folder) for part in parts}
    for part, sha256 in announced.items():
        if sha256:
            _check(part, sha256)
    return Fetched(file, path, True, "hub" if any(announced.values()) else "")


def _download(file: PublishedFile, folder: Path | None, report: Callable[[str], None]) -> Path:
    """The file or folder, downloaded from the hub."""
    from huggingface_hub import hf_hub_download, snapshot_download

    report(f"fetching {file.name} from huggingface.co/{file.repository}")
    to: dict[str, Any] = {"revision": file.revision, "cache_dir": hub_cache(), "local_dir": folder}
    try:
        if not file.name.endswith("/"):
            return Path(hf_hub_download(file.repository, file.name, **to))
        path = Path(snapshot_download(file.repository, allow_patterns=f"{file.name}*", **to)) / file.name
        if not path.is_dir():
            raise FileNotFoundError("the repository holds no such folder")
        return path
    except OSError as error:  # of the hub's client: offline, no connection, no such file; or a full disk
        reason = " ".join((str(error) or type(error).__name__).split())
        raise CheckpointError(
            f"{file.name} could not be fetched from {file.repository} ({reason})",
            hint=f"check the connection and HF_HUB_OFFLINE, or put the file into a folder that {FOLDERS} names",
        ) from error


def _announced(path: Path, folder: Path | None) -> str | None:
    """The SHA-256 that the hub announced for a downloaded file, as its client keeps it; None for a small file."""
    if folder is None:
        tag = path.resolve().name  # the cache names large files by their hash
    else:
        note = folder / ".cache/huggingface/download" / f"{path.relative_to(folder)}.metadata"
        tag = note.read_text().split()[1] if note.is_file() else ""
    return tag if re.fullmatch("[0-9a-f]{64}", tag) else None


def _check(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise CheckpointError(
            f"{path} is not the published file: its SHA-256 begins with {found[:16]}",
            expected=expected[:16],
            hint="delete it and fetch it again",
        )
