"""Locks of folders: one holder at a time, whoever it was and however it ended."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cyclevar.core.errors import CheckpointError
from cyclevar.core.runtime import locks
from cyclevar.core.runtime.locks import LOCK, FolderLock, InUseError, locked

HOLD = """
import sys, time
from pathlib import Path
from cyclevar.core.runtime.locks import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Return a process that holds the lock."""
    started = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "held\n"
    return started


def end(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(tmp_path: Path, number: int) -> None:
    folder = tmp_path / "run"
    holder = hold(folder)
    try:
        with pytest.raises(InUseError, match=rf"run is in use by process {holder.pid} on .* since \d+.*; wait for its"):
            FolderLock(folder)
    finally:
        end(holder, number)
    assert (folder / LOCK).exists()
    with FolderLock(folder):
        assert f"process {os.getpid()} on " in (folder / LOCK).read_text()
    assert list(folder.iterdir()) == []


def test_a_stopped_process_keeps_its_lock(tmp_path: Path) -> None:
    holder = hold(tmp_path)
    try:
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(InUseError):
            FolderLock(tmp_path)
    finally:
        end(holder, signal.SIGKILL)


def test_one_process_locks_a_folder_once(tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(InUseError):
        FolderLock(tmp_path)
    FolderLock(tmp_path).release()


def test_only_empty_folders_that_were_made_for_the_lock_are_removed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    FolderLock(tmp_path / "there").release()
    FolderLock(tmp_path / "a" / "b" / "c").release()
    with FolderLock(tmp_path / "d" / "e"):
        (tmp_path / "d" / "e" / "file").touch()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["d", "d/e", "d/e/file", "there"]


def test_a_new_folder_must_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InUseError, match="exists"):
        FolderLock(tmp_path, new=True)
    with FolderLock(tmp_path / "new", new=True), pytest.raises(InUseError):
        FolderLock(tmp_path / "new", new=True)


def test_a_lock_file_that_is_replaced_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder before removed the file between opening and locking: the new file is locked instead."""
    real, times = locks._lock, []

    def lock(file: int, path: Path, in_use: Callable[[str], InUseError]) -> None:
        real(file, path, in_use)
        times.append(file)
        if len(times) == 1:
            (tmp_path / LOCK).unlink()

    monkeypatch.setattr(locks, "_lock", lock)
    with FolderLock(tmp_path):
        monkeypatch.undo()
        with pytest.raises(InUseError):
            FolderLock(tmp_path)
    assert len(times) == 2


def test_without_locks_there_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class NoLocks:
        LOCK_EX = LOCK_NB = 0

        @staticmethod
        def flock(file: int, how: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    for module in (NoLocks, None):
        monkeypatch.setattr(locks, "fcntl", module)
        caplog.clear()
        FolderLock(tmp_path).release()
        assert f"{tmp_path} cannot be locked" in caplog.text


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        CheckpointError, match=re.escape(f"{tmp_path / 'file' / 'run'} cannot be written (Not a directory)")
    ):
        FolderLock(tmp_path / "file" / "run")


def test_a_locked_file_names_its_holder_and_is_free_after_an_error(tmp_path: Path) -> None:
    holder = hold(tmp_path / "run")
    path = tmp_path / "run" / LOCK
    try:
        with (
            pytest.raises(InUseError, match=rf"process {holder.pid} on .* writes here \(.*\.lock\); wait"),
            locked(path, "writes here", "wait"),
        ):
            pass
    finally:
        end(holder, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(KeyError, match="True"), locked(path, "", ""):
            raise KeyError(path.read_text().startswith(f"process {os.getpid()} on "))
    assert not path.exists()
