"""The archives and the split that the package ships."""

from __future__ import annotations

import io
import json
import zipfile
from importlib.resources import files

import pytest
from PIL import Image

from cyclevar.core.data.datasets import open_dataset
from cyclevar.core.data.emoji import base_of, variants_by_base

FOLDER = files("cyclevar.core.data") / "emoji"
PARTS = {"train_a": 600, "train_b": 600, "validation": 97, "test": 297}


@pytest.fixture(scope="module")
def split() -> dict[str, list[str]]:
    parts: dict[str, list[str]] = json.loads((FOLDER / "split.json").read_text("utf-8"))
    return {name: parts[name] for name in PARTS}


def test_split_is_a_partition_of_the_base_emoji(split: dict[str, list[str]]) -> None:
    assert {name: len(part) for name, part in split.items()} == PARTS
    everything = [code for part in split.values() for code in part]
    assert len(set(everything)) == len(everything) == 1594
    assert all(base_of(code) == code for code in everything)


def test_split_is_not_by_code_point(split: dict[str, list[str]]) -> None:
    """Each part takes its share of every tenth of the code points (a blocked split would leave tenths empty)."""
    ordered = sorted(code for part in split.values() for code in part)
    tenth = {code: index * 10 // len(ordered) for index, code in enumerate(ordered)}
    for part in split.values():
        counts = [sum(tenth[code] == bucket for code in part) for bucket in range(10)]
        assert min(counts) > 0.3 * len(part) / 10


@pytest.mark.parametrize("style", ["noto", "fluent"])
def test_archive_matches_the_split(style: str, split: dict[str, list[str]]) -> None:
    path = FOLDER / f"{style}.zip"
    content = path.read_bytes()
    assert len(content) < 14_000_000
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        codes = [name.removesuffix(".webp") for name in archive.namelist()]
        assert len(codes) == len(set(codes)) == 3139
        assert {base_of(code) for code in codes} == {code for part in split.values() for code in part}
        for member in archive.infolist():
            with Image.open(archive.open(member)) as picture:
                assert (picture.format, picture.mode, picture.size) == ("WEBP", "RGB", (128, 128))


def test_licences_are_there() -> None:
    assert "Apache License" in (FOLDER / "LICENSE-noto.txt").read_text()
    assert "Copyright (c) Microsoft Corporation" in (FOLDER / "LICENSE-fluent.txt").read_text()
    assert "noto.zip" in (FOLDER / "ATTRIBUTION.md").read_text()


def test_open_emoji(split: dict[str, list[str]]) -> None:
    data = open_dataset()
    assert data.domains == ("noto", "fluent")
    assert data.paired
    assert [pictures.names for pictures in data.train] == [split["train_a"], split["train_b"]]
    for name, part in (("validation", data.validation), ("test", data.test)):
        assert part is not None
        assert part[0].names == part[1].names == split[name]
    assert data.train[0][0].mode == "RGB"
    assert data.fingerprint() == open_dataset("emoji").fingerprint()


def test_skin_tones_stay_with_their_base(split: dict[str, list[str]]) -> None:
    plain, toned = open_dataset(), open_dataset(skin_tones=True)
    assert toned.validation is not None
    assert plain.validation is not None
    assert toned.validation[0].names == plain.validation[0].names
    seen = []
    for pictures, part in zip(toned.train, ("train_a", "train_b"), strict=True):
        assert {base_of(code) for code in pictures.names} == set(split[part])
        assert len(pictures) > 1000
        seen += pictures.names
    assert len(set(seen)) == len(seen)
    assert toned.fingerprint() != plain.fingerprint()


def test_base_of() -> None:
    assert base_of("1f44b-1f3fd") == "1f44b"
    assert base_of("26f9-1f3ff-200d-2640-fe0f") == base_of("26f9-fe0f-200d-2640") == "26f9-200d-2640"
    assert variants_by_base(["1f44b", "1f44b-1f3fd", "1f600"]) == {
        "1f44b": ["1f44b", "1f44b-1f3fd"],
        "1f600": ["1f600"],
    }
