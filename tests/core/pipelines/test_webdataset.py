"""Archives in, archives out: samples stay together, bad ones cost only themselves, and no name leads anywhere else."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyclevar.core.errors import ConfigError, DataError, UnknownNameError
from cyclevar.core.pipelines.translate_files import Outcome, plan_jobs, translate_files
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.pipelines.webdataset import find_archives, plan_archives, sample_key, translate_archives


@pytest.fixture(scope="module")
def translator(small_translator: Path) -> Translator:
    return Translator.load(small_translator)


def encoded(seed: int, kind: str = "PNG", size: tuple[int, int] = (16, 16)) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def pack(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def unpacked(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def run(translator: Translator, source: Path, out: Path, kind: str | None = None, **options: Any) -> list[Outcome]:
    jobs = plan_archives(source, out, kind=kind, per_archive=options.pop("per_archive", 1000))
    assert jobs is not None
    return list(translate_archives(translator, jobs, "fluent", kind=kind, **options))


def test_an_archive_gives_what_the_files_give(translator: Translator, tmp_path: Path) -> None:
    members = {f"sub/{seed:03d}.png": encoded(seed, size=(20, 12)) for seed in range(5)}
    for name, content in members.items():
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    list(translate_files(translator, plan_jobs(tmp_path / "files", tmp_path / "made"), "fluent", batch_size=2))
    pack(tmp_path / "a.tar", members)
    outcomes = run(translator, tmp_path / "a.tar", tmp_path / "out", batch_size=2)
    assert [outcome.status for outcome in outcomes] == ["translated"] * 5
    made = unpacked(tmp_path / "out" / "a.tar")
    assert made == {name: (tmp_path / "made" / name).read_bytes() for name in members}
    packed = run(translator, tmp_path / "files", tmp_path / "packed", kind="wds", batch_size=2)
    assert [outcome.status for outcome in packed] == ["translated"] * 5
    assert unpacked(tmp_path / "packed" / "00000.tar") == made


def test_the_rest_of_a_sample_is_kept_and_bad_samples_are_left_out(translator: Translator, tmp_path: Path) -> None:
    members = {
        "a.json": b"1",
        "a.png": encoded(0),
        "a.mask.gif": encoded(1, "GIF"),
        "b.png": b"damaged",
        "b.json": b"2",
        "c.d/e.json": b"3",
    }
    source = pack(tmp_path / "in" / "x.tar", members)
    outcomes = run(translator, source, tmp_path / "out.tar")
    made = unpacked(tmp_path / "out.tar")
    assert list(made) == ["a.json", "a.png", "a.mask.png", "c.d/e.json"]
    assert (made["a.json"], made["c.d/e.json"]) == (b"1", b"3")
    assert [(one.status, one.job.source.name) for one in outcomes] == [
        ("translated", "a.png"),
        ("translated", "a.mask.gif"),
        ("failed", "b.png"),
    ]
    assert f"cannot read the picture {source / 'b.png'}: not a picture" in outcomes[2].problem


def test_formats_and_names(translator: Translator, tmp_path: Path) -> None:
    source = pack(
        tmp_path / "x.tgz", {"a.png": encoded(0), "a.gif": encoded(1, "GIF"), "b.jpeg": encoded(2, "JPEG")}, "w:gz"
    )
    run(translator, source, tmp_path / "out", kind="jpg")
    assert list(unpacked(tmp_path / "out" / "x.tgz")) == ["a.jpg", "a.gif.jpg", "b.jpeg"]
    run(translator, source, tmp_path / "kept", kind="wds")
    assert list(unpacked(tmp_path / "kept" / "x.tgz")) == ["a.png", "a.gif.png", "b.jpeg"]
    with pytest.raises(UnknownNameError, match="did you mean 'png'"):
        run(translator, source, tmp_path / "none", kind="pgn")


@pytest.mark.parametrize("name", ["../out.png", "/tmp/out.png", "a/../../out.png", "C:/out.png", "..\\out.png", "."])
def test_names_cannot_leave_the_folder(translator: Translator, tmp_path: Path, name: str) -> None:
    source = pack(tmp_path / "in" / "x.tar", {name: encoded(0), "fine.png": encoded(1)})
    outcomes = run(translator, source, tmp_path / "out")
    assert [one.status for one in outcomes] == ["failed", "translated"]
    assert "leads out of its folder" in outcomes[0].problem
    assert list(unpacked(tmp_path / "out" / "x.tar")) == ["fine.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_links_and_devices_are_left_out(translator: Translator, tmp_path: Path) -> None:
    source = pack(tmp_path / "x.tar", {"fine.png": encoded(1)})
    with tarfile.open(source, "a") as tar:
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("pipe.png", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    outcomes = run(translator, source, tmp_path / "out")
    assert [one.status for one in outcomes] == ["translated", "failed", "failed", "failed"]
    assert all("no file but a link or a device" in one.problem for one in outcomes[1:])
    assert list(unpacked(tmp_path / "out" / "x.tar")) == ["fine.png"]


def test_damaged_archives_have_failed_and_the_others_go_on(translator: Translator, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    whole = pack(folder / "a.tar", {f"{n}.png": encoded(n) for n in range(3)}).read_bytes()
    (folder / "b.tar").write_bytes(whole[: len(whole) // 2 - 700])
    (folder / "c.tar").write_bytes(b"no archive")
    (folder / "d.tar.gz").write_bytes(b"\x1f\x8b" + whole[:99])
    pack(folder / "e.tar", {"0.png": encoded(0)})
    outcomes = run(translator, folder, tmp_path / "out")
    failed = {one.job.source.name: one.problem for one in outcomes if one.status == "failed"}
    assert set(failed) == {"b.tar", "c.tar", "d.tar.gz"}
    assert all("is damaged" in problem for problem in failed.values())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.tar", "e.tar"]


def test_what_is_there_is_skipped_and_made_again_byte_for_byte(translator: Translator, tmp_path: Path) -> None:
    source = pack(tmp_path / "in" / "x.tar", {f"{n}.png": encoded(n) for n in range(3)})
    run(translator, source, tmp_path / "out")
    before = (tmp_path / "out" / "x.tar").read_bytes()
    assert [one.status for one in run(translator, source, tmp_path / "out")] == ["already there"]
    assert len(run(translator, source, tmp_path / "out", overwrite=True)) == 3
    assert (tmp_path / "out" / "x.tar").read_bytes() == before


def test_packing_names_and_sizes(tmp_path: Path) -> None:
    for name in ("a.b.png", "a.c.png", "a_b.png", "sub.d/e.gif", "f.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(0))
    jobs = plan_archives(tmp_path / "in", tmp_path / "out", kind="wds", per_archive=2)
    assert jobs is not None
    assert [job.output.name for job in jobs] == ["00000.tar", "00001.tar", "00002.tar"]
    names = [one.output.as_posix() for job in jobs for one in job.source]  # type: ignore[union-attr]
    assert names == ["a_b.png", "a_c.png", "a_b_2.png", "f.png", "sub.d/e.png"]
    assert len({sample_key(name) for name in names}) == 5


def test_unreadable_files_are_left_out_of_an_archive(
    translator: Translator, hostile: tuple[Path, dict[str, str]]
) -> None:
    folder, expected = hostile
    (folder / "huge.png").unlink()
    out = folder.parent / "out"
    outcomes = run(translator, folder, out, kind="wds")
    bad = {name for name, reason in expected.items() if reason}
    assert {one.job.source.name for one in outcomes if one.status == "failed"} == bad
    assert len(unpacked(out / "00000.tar")) == len(expected) - 1 - len(bad)


def test_what_cannot_be_planned(tmp_path: Path) -> None:
    source = pack(tmp_path / "in" / "x.tar", {"a.png": encoded(0)})
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    assert plan_archives(pictures, tmp_path / "out") is None
    with pytest.raises(DataError, match="no pictures in"):
        plan_archives(pictures, tmp_path / "out", kind="wds")
    (pictures / "a.png").write_bytes(encoded(0))
    with pytest.raises(ConfigError, match=r"out\.tar is one archive; expected a folder"):
        plan_archives(pictures, tmp_path / "out.tar", kind="wds")
    with pytest.raises(ConfigError, match="would hold 0 pictures"):
        plan_archives(pictures, tmp_path / "out", kind="wds", per_archive=0)
    with pytest.raises(ConfigError, match="would overwrite"):
        plan_archives(source, source.parent)
    (source.parent / "a.png").write_bytes(encoded(0))
    with pytest.raises(ConfigError, match="holds both archives and pictures"):
        plan_archives(source.parent, tmp_path / "out")
    assert find_archives(tmp_path / "nothing") == []


def test_webdataset_reads_what_we_write_and_we_read_what_it_writes(translator: Translator, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="no webdataset: pip install webdataset")
    (tmp_path / "in").mkdir()
    with webdataset.TarWriter(str(tmp_path / "in" / "0.tar")) as writer:
        for seed in range(3):
            writer.write({"__key__": f"{seed:04d}", "png": encoded(seed), "json": {"seed": seed}})
    run(translator, tmp_path / "in", tmp_path / "out")
    with (tmp_path / "out" / "0.tar").open("rb") as stream:
        files = webdataset.tariterators.tar_file_expander([{"url": "0.tar", "stream": stream}])
        samples = list(webdataset.tariterators.group_by_keys(files))
    assert [(sample["__key__"], json.loads(sample["json"])) for sample in samples] == [
        (f"{seed:04d}", {"seed": seed}) for seed in range(3)
    ]
    assert all(Image.open(io.BytesIO(sample["png"])).size == (16, 16) for sample in samples)
