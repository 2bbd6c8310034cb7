"""Published weights: which files there are, where they lie on this disk, and how they come from the Hugging Face hub.

A file is looked for in the folders that ``CYCLEVAR_MODELS`` names, then in the cache of the hub; only `fetch` ever
downloads. Importing this imports neither torch nor the hub's client.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclevar.core.errors import CheckpointError

FOLDERS = "CYCLEVAR_MODELS"
"""The environment variable that names folders with weights, separated as in PATH."""

Part = Literal["tokenizer", "backbone"]


@dataclass(frozen=True)
class PublishedFile:
    """A file, or with a ``/`` at the end of its name a folder, in a repository of the Hugging Face hub.

    ``presets`` are those that it belongs to. ``sha256`` is given only where it was seen on the published file itself;
    ``revision`` pins the commit.
    """

    name: str
    part: Part
    repository: str
    presets: tuple[str, ...]
    licence: str
    revision: str = "main"
    sha256: str | None = None


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
    for folder in filter(None, os.environ.get(FOLDERS, "").split(os.pathsep)):
        yield Path(folder).expanduser(), FOLDERS
        yield Path(folder).expanduser() / file.repository, FOLDERS
    repository = hub_cache() / f"models--{file.repository.replace('/', '--')}"
    reference = repository / "refs" / file.revision
    revision = reference.read_text().strip() if reference.is_file() else file.revision
    yield repository / "snapshots" / revision, "Hugging Face cache"


def hub_cache() -> Path:
    """The folder of the hub's cache, found as its client does: HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, ~/.cache."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


@dataclass(frozen=True)
class Fetched:
    """A file that `fetch` made available. ``sha256``: of a single file that was read to the end; else None.

    ``verified``: what that was compared with: ``pinned`` (known to cyclevar), ``hub`` (as the hub announced it), or
    ``""``: nothing.
    """

    file: PublishedFile
    path: Path
    downloaded: bool
    sha256: str | None
    verified: Literal["pinned", "hub", ""]


def fetch(
    file: PublishedFile, folder: Path | None = None, *, report: Callable[[str], None] = lambda _: None
) -> Fetched:
    """Make a published file available: as it lies on this disk, else downloaded to ``folder`` or the hub's cache.

    A downloaded file is held to the pinned hash, or where none is known to the one that the hub announces; one that lay
    there is held to a pinned hash only. ``report`` is told what is being done.

    Raises `CheckpointError` where it cannot be had: offline (``HF_HUB_OFFLINE=1``), no such file, a wrong hash.
    """
    found = locate(file) if folder is None else None
    if found is not None:
        if file.sha256 is None:
            return Fetched(file, found.path, False, None, "")
        return Fetched(file, found.path, False, _checked(found.path, file.sha256), "pinned")
    report(f"fetching {file.name} from {file.repository}")
    path, announced = _download(file, folder)
    expected = file.sha256 or announced
    if expected is None:
        return Fetched(file, path, True, None, "")
    return Fetched(file, path, True, _checked(path, expected), "pinned" if file.sha256 else "hub")


def _download(file: PublishedFile, folder: Path | None) -> tuple[Path, str | None]:
    """The downloaded file and the hash that the hub announces for it (of a folder: None)."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from requests import RequestException

    try:
        if file.name.endswith("/"):
            pattern = f"{file.name}*"
            root = snapshot_download(file.repository, revision=file.revision, allow_patterns=pattern, local_dir=folder)
            return Path(root) / file.name, None
        etag = get_hf_file_metadata(hf_hub_url(file.repository, file.name, revision=file.revision)).etag
        path = hf_hub_download(file.repository, file.name, revision=file.revision, local_dir=folder)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError("") from error
    return Path(path), etag if etag and len(etag) == 64 else None


def _checked(path: Path, expected: str) -> str:
    """The file's SHA-256, which is ``expected``."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise CheckpointError(
            f"{path} is not the published file: its SHA-256 is {found[:16]}...",
            expected=f"{expected[:16]}...",
            hint="delete it and fetch it again",
        )
    return found
