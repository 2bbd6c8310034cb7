"""A name in somebody's file leads to a place in its folder, or nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyclevar.core.runtime.files import inside


@pytest.mark.parametrize("name", ["a", "a/b.safetensors", "./a", "..a", "a..b/c", "ü"])
def test_what_lies_inside(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "\\\\server\\x", "..\\x", "C:\\x", "c:x", "a\0b"]
)
def test_what_leads_out(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) is None


def test_links(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for link, target in {"out": tmp_path / "x", "in": folder / "y", "circle": folder / "circle"}.items():
        (folder / link).symlink_to(target)
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    assert inside(folder, "in") == folder / "in"
    assert inside(folder, "out") is None
    assert inside(folder, "up/x") is None
    assert inside(folder, "circle") is None
    (tmp_path / "alias").symlink_to(folder, target_is_directory=True)
    assert inside(tmp_path / "alias", "in") == tmp_path / "alias" / "in"


def test_the_layout_of_the_hubs_cache(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "0123", tmp_path / "models--x" / "blobs"
    for folder in (snapshot / "part", blobs):
        folder.mkdir(parents=True)
    (snapshot / "a").symlink_to("../../blobs/4567")
    (snapshot / "part" / "b").symlink_to("../../../blobs/89ab")
    (snapshot / "c").symlink_to("../../refs")
    assert inside(snapshot, "a") == snapshot / "a"
    assert inside(snapshot / "part", "b") == snapshot / "part" / "b"
    assert inside(snapshot, "c") is None
