"""Names that files bring along: an archive, an index or a manifest says where something lies, and may lie itself."""

from __future__ import annotations

import os
import re
from pathlib import Path


def shown(name: str | Path) -> str:
    """Return a file name as text that can be printed and stored: bytes that are not UTF-8 as ``\\xf6``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def inside(folder: Path, name: str) -> Path | None:
    """The path that ``name``, relative to ``folder``, means; None where it leads out of the folder.

    That is so for an absolute name, for one with ``..`` or a drive in it, and for a symbolic link that points
    elsewhere. The cache of the Hugging Face hub, whose snapshots consist of links to the blobs beside them, is left in
    peace. Nothing need exist.
    """
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name or parts[0] == "" or ".." in parts or re.match("[A-Za-z]:", name):
        return None
    try:
        base, meant = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError):  # links in a circle
        return None
    roots = [base, *(parent.parent / "blobs" for parent in base.parents if parent.name == "snapshots")]
    return folder / name if any(meant.is_relative_to(root) for root in roots) else None
