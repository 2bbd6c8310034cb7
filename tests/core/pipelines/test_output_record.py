"""An output is done if the same settings made it of the same source, and nothing else is replaced by mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cyclevar.core.errors import CheckpointError
from cyclevar.core.pipelines.output_record import RECORD, OutputRecord

SETTINGS = {"model": "a", "size": None}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    source, output = tmp_path / "in.png", tmp_path / "out.png"
    source.write_bytes(b"source")
    output.write_bytes(b"result")
    return source, output


def test_the_same_settings_and_source(tmp_path: Path, files: tuple[Path, Path]) -> None:
    source, output = files
    OutputRecord(tmp_path, SETTINGS).note(output, [source])
    assert OutputRecord(tmp_path, SETTINGS).is_done(output, [source])
    assert not OutputRecord(tmp_path, {**SETTINGS, "size": 3}).is_done(output, [source])
    OutputRecord(tmp_path, {**SETTINGS, "size": 3}).note(output, [source])
    assert not OutputRecord(tmp_path, SETTINGS).is_done(output, [source])  # the last line counts


@pytest.mark.parametrize("change", ["older source", "future source", "output cut", "output gone", "source gone"])
def test_changes_that_times_alone_do_not_tell(tmp_path: Path, files: tuple[Path, Path], change: str) -> None:
    source, output = files
    if change == "future source":
        os.utime(source, (4e9, 4e9))
    record = OutputRecord(tmp_path, SETTINGS)
    record.note(output, [source])
    if change == "older source":
        os.utime(source, (1e9, 1e9))
    if change == "output cut":
        output.write_bytes(b"res")
    if change == "output gone":
        output.unlink()
    if change == "source gone":
        source.unlink()
    assert record.is_done(output, [source]) == (change == "future source")


def test_what_others_made_is_left_alone(tmp_path: Path, files: tuple[Path, Path]) -> None:
    source, output = files
    os.utime(source, (1e9, 1e9))
    assert OutputRecord(tmp_path, SETTINGS).is_done(output, [source])
    os.utime(source, (4e9, 4e9))
    assert not OutputRecord(tmp_path, SETTINGS).is_done(output, [source])


@pytest.mark.parametrize(
    "damage", [b"\xff\xfe\n", b"[]\n", b"{}\n", b'{"output": "out.png"}\n', b"[" * 100_000 + b"\n", b'{"ou']
)
def test_a_damaged_record(tmp_path: Path, files: tuple[Path, Path], damage: bytes) -> None:
    source, output = files
    OutputRecord(tmp_path, SETTINGS).note(output, [source])
    (tmp_path / RECORD).write_bytes(damage + b"\n" + (tmp_path / RECORD).read_bytes())
    assert OutputRecord(tmp_path, SETTINGS).is_done(output, [source])


def test_names_of_any_bytes(tmp_path: Path, files: tuple[Path, Path]) -> None:
    source, odd = files[0], tmp_path / os.fsdecode(b"K\xf6.png")
    odd.write_bytes(b"result")
    OutputRecord(tmp_path, SETTINGS).note(odd, [source])
    assert OutputRecord(tmp_path, SETTINGS).is_done(odd, [source])


def test_a_record_that_cannot_be_written(tmp_path: Path, files: tuple[Path, Path]) -> None:
    (tmp_path / RECORD).mkdir()
    with pytest.raises(CheckpointError, match=r"outputs\.jsonl could not be saved \(Is a directory\)"):
        OutputRecord(tmp_path, SETTINGS).note(files[1], [files[0]])
