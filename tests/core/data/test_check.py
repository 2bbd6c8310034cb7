"""What is found in a folder before anything is trained on it."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclevar.core.data import check
from cyclevar.core.data.check import DataReport, check_dataset, near_pairs, perceptual_hash
from cyclevar.core.data.datasets import open_dataset
from cyclevar.core.data.images import describe_picture


def scene(seed: int, side: int = 48) -> Image.Image:
    """A smooth picture that no other seed gives."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def fill(folder: Path, seeds: range) -> Path:
    folder.mkdir(parents=True)
    for seed in seeds:
        scene(seed).save(folder / f"{seed:03d}.png")
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return fill(tmp_path / "horse", range(40)), fill(tmp_path / "zebra", range(100, 145))


def of(report: DataReport, part: str, domain: str) -> check.PartReport:
    [found] = [one for one in report.parts if (one.part, one.domain) == (part, domain)]
    return found


def test_nothing_to_put_right(folders: tuple[Path, Path]) -> None:
    report = check_dataset(open_dataset(folders[0], other=folders[1]))
    assert (report.problems, report.remarks, report.duplicates) == ([], [], [])
    assert [(one.part, one.domain, one.pictures) for one in report.parts] == [
        ("train", "horse", 38),
        ("train", "zebra", 43),
        ("validation", "horse", 2),
        ("validation", "zebra", 2),
    ]
    horse = of(report, "train", "horse")
    assert (horse.smallest, horse.median, horse.largest) == ((48, 48),) * 3
    assert (horse.kinds, horse.modes, horse.peculiar, horse.bad) == ({"PNG": 38}, {"RGB": 38}, {}, {})


def test_hostile_pictures(folders: tuple[Path, Path], hostile: tuple[Path, dict[str, str]]) -> None:
    folder, expected = hostile
    for seed in range(200, 300):
        scene(seed).save(folder / f"{seed}.png")
    data = open_dataset(folder, other=folders[1])
    report = check_dataset(data)
    parts = [one for one in report.parts if one.domain == "hostile"]
    bad = {name: reason for one in parts for name, reason in one.bad.items()}
    assert bad.keys() == {name for name, reason in expected.items() if reason}
    assert all(expected[name] in reason for name, reason in bad.items())
    peculiar = {what: names for one in parts for what, names in one.peculiar.items()}
    assert peculiar == {
        "turned by EXIF": ["turned.jpg"],
        "wrong ending": ["wrong-ending.png"],
        "animated": ["animated.gif"],
        "transparent": ["palette.png"],
        "more than 8 bits": ["deep.png"],
        "CMYK": ["cmyk.jpg"],
        "under 32 pixels": ["dot.bmp"],
    }
    assert max(one.largest for one in parts if one.largest) == (6000, 3500)
    assert sum(one.pictures for one in parts) == 114
    assert any(
        "pictures of train/hostile cannot be read, and would be left out" in problem for problem in report.problems
    )


def test_too_many_bad_ones(folders: tuple[Path, Path]) -> None:
    for path in sorted(folders[0].iterdir())[:12]:
        path.write_bytes(b"damaged")
    report = check_dataset(open_dataset(folders[0], other=folders[1]))
    assert any("more than data.most_bad (10%): a training would stop" in problem for problem in report.problems)


def test_too_few(tmp_path: Path) -> None:
    report = check_dataset(open_dataset(fill(tmp_path / "a", range(3)), other=fill(tmp_path / "b", range(10, 60))))
    assert report.problems == ["train/a has 3 pictures; a training needs 40, some to be held out"]


def test_duplicates_across_domains_and_parts(tmp_path: Path) -> None:
    for stem, seeds in (("trainA", range(40)), ("trainB", range(100, 140)), ("testA", range(200, 205))):
        fill(tmp_path / stem, seeds)
    fill(tmp_path / "testB", range(300, 305))
    scene(3).save(tmp_path / "trainB" / "same.png")  # the same file as trainA/003.png
    scene(205).resize((200, 200)).save(tmp_path / "testA" / "205.jpg", quality=60)
    scene(205).save(tmp_path / "trainA" / "205.png")  # the same picture in another size and compression
    scene(7).save(tmp_path / "trainA" / "twice.png")
    report = check_dataset(open_dataset(tmp_path))
    found = [(one.kind, one.across, {key.rpartition("/")[2] for key in one.pictures}) for one in report.duplicates]
    assert found == [
        ("exact", "domains", {"003.png", "same.png"}),
        ("exact", "none", {"007.png", "twice.png"}),
        ("near", "parts", {"205.png", "205.jpg"}),
    ]
    assert [problem.split(": ")[0] for problem in report.problems] == [
        "1 equal groups of pictures are in both domains, where they teach that nothing need be changed"
    ]
    assert len(report.remarks) == 2


def test_the_hash_survives_what_copies_suffer_and_tells_pictures_apart() -> None:
    def apart(one: Image.Image, other: Image.Image) -> int:
        return (int(perceptual_hash(one)) ^ int(perceptual_hash(other))).bit_count()

    for seed in range(20):
        picture = scene(seed, 96)
        assert apart(picture, picture.resize((60, 60))) <= check.NEAR_BITS
        assert apart(picture, picture.convert("L").convert("RGB")) <= check.NEAR_BITS
    hashes = [perceptual_hash(scene(seed)) for seed in range(40)]
    distances = [(int(a) ^ int(b)).bit_count() for a, b in itertools.combinations(hashes, 2)]
    assert min(distances) > check.NEAR_BITS


def test_colours_count() -> None:
    """Two hearts of different colours have one structure and are no duplicates."""
    grey, black = scene(0).convert("L"), Image.new("L", (48, 48))
    red, blue = Image.merge("RGB", [grey, black, black]), Image.merge("RGB", [black, black, grey])
    seen = {}
    for name, picture in (("red", red), ("blue", blue)):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        facts, _ = describe_picture(buffer.getvalue())
        thumbnail = np.asarray(picture.resize((8, 8), Image.Resampling.BOX))
        seen[f"train/a/{name}"] = check.Seen(name, facts, name.encode(), np.uint64(5), thumbnail)
    assert check.find_duplicates(seen) == []


def test_near_pairs_equal_all_pairs() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 60, dtype=np.uint64)
    flips = np.array([sum(1 << int(bit) for bit in rng.choice(64, n, replace=False)) for n in range(12)], np.uint64)
    hashes = np.concatenate([base, base[:12] ^ flips])
    expected = {
        (i, j)
        for i, j in itertools.combinations(range(len(hashes)), 2)
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= check.NEAR_BITS
    }
    assert len(expected) >= 6
    assert {(min(pair), max(pair)) for pair in near_pairs(hashes)} == expected
    assert list(near_pairs(hashes[:0])) == []
