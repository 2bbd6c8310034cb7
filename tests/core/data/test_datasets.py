from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from PIL import Image

from cyclevar.core.data.datasets import open_dataset
from cyclevar.core.data.sources import PictureList
from cyclevar.core.errors import ConfigError, DataError, PictureError, PluginError
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.extension.registry import Entry


def fill(folder: Path, count: int, suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number:03d}.{suffix}")
    return folder


def names(part: tuple[PictureList, PictureList] | None) -> list[set[str]]:
    assert part is not None
    return [set(pictures.names) for pictures in part]


def test_cyclegan_layout(tmp_path: Path) -> None:
    for stem, count in (("trainA", 3), ("trainB", 5), ("testA", 2), ("testB", 1), ("valA", 1), ("valB", 1)):
        fill(tmp_path / stem, count)
    data = open_dataset(tmp_path)
    assert data.name == tmp_path.name
    assert data.domains == ("A", "B")
    assert [len(pictures) for part in (data.train, data.validation, data.test) for pictures in part or ()] == [
        3, 5, 1, 1, 2, 1,
    ]  # fmt: skip
    assert not data.paired
    assert data.prompts is None
    assert data.train[0][2].getpixel((0, 0)) == (2, 0, 0)


def test_turbo_layout(tmp_path: Path) -> None:
    for stem in ("train_A", "train_B", "test_A", "test_B"):
        fill(tmp_path / stem, 2)
    (tmp_path / "fixed_prompt_a.txt").write_text("a horse\n")
    (tmp_path / "fixed_prompt_b.txt").write_text("a zebra\n", encoding="utf-8-sig")
    data = open_dataset(str(tmp_path))
    assert data.prompts == ("a horse", "a zebra")
    assert data.validation is None
    (tmp_path / "fixed_prompt_b.txt").unlink()
    with pytest.raises(DataError, match="fixed_prompt_b"):
        open_dataset(tmp_path)


def test_two_subfolders_nested_any_case(tmp_path: Path) -> None:
    fill(tmp_path / "zebra" / "deep" / "er", 2, "JPG")
    fill(tmp_path / "horse", 1, "TiFf")
    fill(tmp_path / "horse" / ".thumbnails", 4)
    (tmp_path / "horse" / "notes.txt").write_text("not a picture")
    (tmp_path / "papers").mkdir()
    data = open_dataset(tmp_path)
    assert data.domains == ("horse", "zebra")
    assert [pictures.names for pictures in data.train] == [["000.TiFf"], ["deep/er/000.JPG", "deep/er/001.JPG"]]


def test_two_folders_with_the_same_name_are_told_apart(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "horse" / "all", 1), fill(tmp_path / "zebra" / "all", 1)
    assert open_dataset(a, other=b).domains == ("horse", "zebra")
    assert open_dataset(a.parent, other=b.parent).domains == ("horse", "zebra")
    with pytest.raises(DataError, match="both domains"):
        open_dataset(a, other=a)


def test_validation_is_held_out_of_training(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", 45), fill(tmp_path / "b", 20)
    data = open_dataset(a, other=b)
    for train, validation, count, held in zip(names(data.train), names(data.validation), (45, 20), (2, 1), strict=True):
        assert len(validation) == held
        assert len(train) == count - held
        assert not train & validation
    assert names(data.validation) == names(open_dataset(a, other=b).validation)
    (b / "000.png").unlink()
    few = open_dataset(a, other=b)
    assert few.validation is None
    assert [len(pictures) for pictures in few.train] == [45, 19]


def test_fingerprint_follows_the_data(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", 3), fill(tmp_path / "b", 3)
    before = open_dataset(a, other=b).fingerprint()
    assert open_dataset(a, other=b).fingerprint() == before
    assert open_dataset(b, other=a).fingerprint() != before
    Image.new("RGB", (64, 64)).save(a / "000.png")
    resized = open_dataset(a, other=b).fingerprint()
    assert resized != before
    (a / "000.png").rename(a / "9.png")
    assert open_dataset(a, other=b).fingerprint() not in (before, resized)


def test_bad_picture_is_recorded_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a, b = fill(tmp_path / "a", 2), fill(tmp_path / "b", 2)
    (a / "000.png").write_bytes(b"no picture")
    pictures = open_dataset(a, other=b).train[0]
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(PictureError, match=r"000\.png"):
                pictures[0]
    assert list(pictures.bad) == ["000.png"]
    assert len(caplog.records) == 1
    assert pictures[1].size == (4, 4)


def test_only_files_are_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a, b = fill(tmp_path / "a", 1), fill(tmp_path / "b", 1)
    fill(a / "folder.png", 1)
    (a / "linked").symlink_to(b)
    data = open_dataset(a, other=b)
    assert data.train[0].names == ["000.png", "folder.png/000.png"]
    before = data.fingerprint()
    (a / "dangling.png").symlink_to("nowhere")
    assert open_dataset(a, other=b).fingerprint() != before
    assert not caplog.records


def test_a_folder_that_may_not_be_entered_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from cyclevar.core.data import sources

    sources._pass_over(PermissionError(13, "Permission denied", str(tmp_path / "locked")))
    assert caplog.messages == [f"the folder {tmp_path / 'locked'} is passed over: Permission denied"]


def test_messages_say_what_was_found_and_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist.*trainA"):
        open_dataset(tmp_path / "none")
    with pytest.raises(DataError, match=r"0 pictures and 0 sub-folders.*trainA.*two folders"):
        open_dataset(tmp_path)
    file = fill(tmp_path / "flat", 1) / "000.png"
    with pytest.raises(DataError, match=r"000\.png is a file"):
        open_dataset(file)
    with pytest.raises(DataError, match="1 pictures and 0 sub-folders"):
        open_dataset(tmp_path / "flat")
    for name in "xyz":
        fill(tmp_path / "three" / name, 1)
    with pytest.raises(DataError, match=r"3 sub-folders of pictures \(x, y, z\)"):
        open_dataset(tmp_path / "three")
    for name in ("train", "test"):
        fill(tmp_path / "parts" / name, 1)
    with pytest.raises(DataError, match="no known layout"):
        open_dataset(tmp_path / "parts")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no pictures in .*empty; expected files ending in png"):
        open_dataset(tmp_path / "flat", other=tmp_path / "empty")
    fill(tmp_path / "half" / "trainA", 1)
    with pytest.raises(DataError, match="has trainA but no trainB"):
        open_dataset(tmp_path / "half")
    shutil.copytree(tmp_path / "half" / "trainA", tmp_path / "half" / "trainB")
    fill(tmp_path / "half" / "testB", 1)
    with pytest.raises(DataError, match="has testB but no testA"):
        open_dataset(tmp_path / "half")


def test_a_second_folder_beside_the_emoji(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\./emoji"):
        open_dataset("emoji", other=tmp_path)


def test_a_plugins_data_set_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "a", 3)
    fill(tmp_path / "b", 3)
    registry = get_manager().registry
    factories = {"mine": lambda: open_dataset(tmp_path), "wrong": lambda: 3}
    for name, factory in factories.items():
        monkeypatch.setitem(
            registry._entries, ("dataset", name), Entry("dataset", name, "", "plugin p (p 1.0)", factory)
        )
    assert open_dataset("mine").domains == ("a", "b")
    with pytest.raises(ConfigError, match=r"beside the data set mine of a plugin.*write \./mine"):
        open_dataset("mine", other=tmp_path)
    with pytest.raises(PluginError, match=r"'wrong' of plugin p \(p 1\.0\) is 3; expected an UnpairedDataset"):
        open_dataset("wrong")
