"""A file that is unchanged is read once; one that changed is read again, however alike it looks."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from cyclevar.core.data import fingerprints
from cyclevar.core.data.fingerprints import UNREADABLE, digests

NAMES = ["a", "b", "c"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CYCLEVAR_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    root.mkdir()
    for name in NAMES:
        (root / name).write_bytes(name.encode())
        os.utime(root / name, (1e9, 1e9))
    return root


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose content is read."""
    names, real = list[str](), fingerprints._digest

    def digest(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(fingerprints, "_digest", digest)
    return names


def test_unchanged_files_are_read_once(folder: Path, read: list[str]) -> None:
    assert digests(folder, NAMES) == [hashlib.sha256(name.encode()).hexdigest()[:32] for name in NAMES]
    assert sorted(read) == NAMES
    assert digests(folder, NAMES[:2]) == digests(folder, NAMES)[:2]
    assert sorted(read) == NAMES
    (folder / "b").write_bytes(b"B")
    os.utime(folder / "b", (1e9, 1e9))
    assert digests(folder, NAMES)[1] == hashlib.sha256(b"B").hexdigest()[:32]
    assert sorted(read) == sorted([*NAMES, "b"])


def test_a_file_that_has_just_been_written_is_read_again(folder: Path, read: list[str]) -> None:
    (folder / "a").touch()
    digests(folder, NAMES)
    digests(folder, NAMES)
    assert sorted(read) == sorted([*NAMES, "a"])


def test_what_is_no_file(folder: Path) -> None:
    (folder / "link").symlink_to("nowhere")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    assert digests(folder, ["link", "folder", "pipe", "gone"]) == [UNREADABLE] * 4


@pytest.mark.parametrize("damage", [b"", b"\xff\n", b"1 2 3\n", b'1 2 3 4 5 "\n'])
def test_a_damaged_cache_costs_time_alone(folder: Path, tmp_path: Path, damage: bytes) -> None:
    before = digests(folder, NAMES)
    [file] = (tmp_path / "cache" / "digests").iterdir()
    file.write_bytes(damage + file.read_bytes())
    assert digests(folder, NAMES) == before


def test_no_place_for_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    monkeypatch.setenv("CYCLEVAR_CACHE", str(tmp_path / "taken"))
    assert len(set(digests(folder, NAMES))) == 3


def test_names_of_any_bytes(folder: Path, read: list[str]) -> None:
    odd = [os.fsdecode(b"K\xf6"), "two words", "line\nbreak"]
    for name in odd:
        (folder / name).write_bytes(os.fsencode(name))
        os.utime(folder / name, (1e9, 1e9))
    assert digests(folder, odd) == digests(folder, odd)
    assert len(read) == 3
