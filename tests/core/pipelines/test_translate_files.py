"""Files go where they should, keep their size and proportions, and a bad one stops none of the others."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclevar.core.data.fitting import fit, unfit
from cyclevar.core.data.transforms import from_array, to_array
from cyclevar.core.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from cyclevar.core.pipelines import translate_files as picture_files
from cyclevar.core.pipelines.translate_files import Job, plan_jobs, translate_files
from cyclevar.core.pipelines.translator import Translator


@pytest.fixture(scope="module")
def translator(small_translator: Path) -> Translator:
    return Translator.load(small_translator)


def draw(path: Path, width: int = 20, height: int = 20, seed: int = 0, **options: object) -> Path:
    """A smooth picture that differs from place to place, written to ``path``."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path, **options)
    return path


def tree(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        draw(folder / name, seed=seed)
    return folder


def planned(source: Path, out: Path, kind: str | None = None) -> dict[str, str]:
    jobs = plan_jobs(source, out, kind=kind)
    return {job.source.relative_to(source).as_posix(): job.output.relative_to(out).as_posix() for job in jobs}


def levels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


# Where each picture goes


def test_names_and_folders_are_kept(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", "a.png", "sub/b.JPG", "sub/deep/c.webp", "d.gif", "e.bmp", "f.tiff", ".hidden/g.png")
    (source / "notes.txt").touch()
    (source / "folder.png").mkdir()
    assert planned(source, tmp_path / "out") == {
        "a.png": "a.png",
        "d.gif": "d.png",
        "e.bmp": "e.bmp",
        "f.tiff": "f.tiff",
        "sub/b.JPG": "sub/b.JPG",
        "sub/deep/c.webp": "sub/deep/c.webp",
    }
    assert planned(source, tmp_path / "out", "jpg") == {
        "a.png": "a.jpg",
        "d.gif": "d.jpg",
        "e.bmp": "e.jpg",
        "f.tiff": "f.jpg",
        "sub/b.JPG": "sub/b.JPG",
        "sub/deep/c.webp": "sub/deep/c.jpg",
    }
    assert planned(source, tmp_path / "out", ".PNG")["sub/b.JPG"] == "sub/b.png"


def test_no_two_pictures_get_one_name(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", "a.gif", "a.png", "a.gif.png", "b.jpg", "b.webp")
    assert planned(source, tmp_path / "out") == {
        "a.gif": "a.gif.png.png",
        "a.gif.png": "a.gif.png",
        "a.png": "a.png",
        "b.jpg": "b.jpg",
        "b.webp": "b.webp",
    }
    assert planned(source, tmp_path / "out", "webp") == {
        "a.gif": "a.webp",
        "a.gif.png": "a.gif.webp",
        "a.png": "a.png.webp",
        "b.jpg": "b.jpg.webp",
        "b.webp": "b.webp",
    }


def test_a_single_picture_goes_to_a_file_or_into_a_folder(tmp_path: Path) -> None:
    source = draw(tmp_path / "a.gif")

    def output(out: Path, kind: str | None = None) -> Path:
        [job] = plan_jobs(source, out, kind=kind)
        assert job.source == source
        return job.output

    (tmp_path / "v1.2").mkdir()
    assert output(tmp_path / "b.png") == tmp_path / "b.png"
    assert output(tmp_path / "new") == tmp_path / "new" / "a.png"
    assert output(tmp_path / "new", "webp") == tmp_path / "new" / "a.webp"
    assert output(tmp_path / "v1.2") == tmp_path / "v1.2" / "a.png"
    assert output(tmp_path / "b.jpeg", "jpg") == tmp_path / "b.jpeg"
    assert plan_jobs(draw(tmp_path / "b.dat", format="PNG"), tmp_path / "new")[0].output == tmp_path / "new" / "b.png"


def test_what_cannot_be_planned_is_refused(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", "a.png", "sub/b.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="none does not exist; expected a picture or a folder"):
        plan_jobs(tmp_path / "none", tmp_path / "out")
    with pytest.raises(DataError, match=r"no pictures in .*empty; expected files ending in \.png"):
        plan_jobs(tmp_path / "empty", tmp_path / "out")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(ConfigError, match="file is a file; expected a folder"):
            plan_jobs(source, out)
        with pytest.raises(ConfigError, match="file is a file; expected a folder"):
            plan_jobs(source / "a.png", out)
    for out in (source, source / "out", tmp_path / "in" / ".." / "in" / "sub"):
        with pytest.raises(ConfigError, match="would lie inside"):
            plan_jobs(source, out)
    for out in (source, source / "a.png", tmp_path / "in" / ".." / "in" / "a.png"):
        with pytest.raises(ConfigError, match="would overwrite"):
            plan_jobs(source / "a.png", out)
    with pytest.raises(UnknownNameError, match=r"no picture format to write named 'pgn'.*did you mean 'png'"):
        plan_jobs(source, tmp_path / "out", kind="pgn")
    with pytest.raises(UnknownNameError, match="named 'gif'"):
        plan_jobs(source / "a.png", tmp_path / "out.gif")
    with pytest.raises(ConfigError, match=r"b\.jpg does not end in \.png"):
        plan_jobs(source / "a.png", tmp_path / "b.jpg", kind="png")


def test_sources_may_lie_beside_or_below_the_output(tmp_path: Path) -> None:
    source = tree(tmp_path / "in", "a.png")
    assert planned(source, tmp_path) == {"a.png": "a.png"}
    tree(source, "in/a.png")
    with pytest.raises(ConfigError, match="would lie inside"):  # in/in/a.png would become in/a.png
        plan_jobs(source, tmp_path)


# To the model's canvas and back


def test_a_square_is_scaled_as_in_training() -> None:
    for side in (7, 16, 50):
        picture = Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8))
        assert np.array_equal(fit(picture, (16, 16)).pixels, to_array(picture, 16))


@pytest.mark.parametrize("size", [(20, 20), (30, 11), (11, 30), (1, 1), (1, 40), (500, 1), (16, 16), (64, 48)])
def test_proportions_and_size_survive(size: tuple[int, int]) -> None:
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 3, 3), np.uint8))
    picture = coarse.resize(size, Image.Resampling.BICUBIC)
    fitted = fit(picture, (16, 16))
    left, top, right, bottom = fitted.box
    width, height = right - left, bottom - top
    assert fitted.pixels.shape == (16, 16, 3)
    assert max(width, height) == 16
    assert abs(width / height - size[0] / size[1]) < 0.1 * size[0] / size[1] or min(width, height) == 1
    assert np.array_equal(fitted.pixels[: top + 1].min(0), fitted.pixels[: top + 1].max(0))  # the edge, repeated
    assert np.array_equal(fitted.pixels[:, right - 1 :].min(1), fitted.pixels[:, right - 1 :].max(1))

    back = unfit(from_array(fitted.pixels), fitted)
    assert back.size == size
    if min(size) > 10:
        assert np.abs(np.asarray(back).astype(int) - np.asarray(picture)).mean() < 8
    assert unfit(from_array(fitted.pixels), fitted, 40).size == tuple(max(1, round(s * 40 / max(size))) for s in size)


def test_the_canvas_need_not_be_square() -> None:
    fitted = fit(Image.new("RGB", (50, 50)), (8, 24))
    assert (fitted.pixels.shape, fitted.box) == ((8, 24, 3), (8, 0, 16, 8))


# Translating


def test_every_picture_is_translated(translator: Translator, tmp_path: Path) -> None:
    source = tree(tmp_path / "in", "a.png", "sub/b.jpg", "sub/c.bmp", "d.gif")
    jobs = plan_jobs(source, tmp_path / "out")
    outcomes = list(translate_files(translator, jobs, "fluent", batch_size=3))
    assert [(outcome.job, outcome.status) for outcome in outcomes] == [(job, "translated") for job in jobs]
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["a.png", "b.jpg", "c.bmp", "d.png"]

    with Image.open(source / "a.png") as picture:
        alone = translator(from_array(to_array(picture, 16))[None], "fluent")
    expected = np.asarray(unfit(alone[0], fit(Image.new("RGB", (20, 20)), (16, 16))))
    assert np.abs(levels(tmp_path / "out" / "a.png") - expected).max() <= 1
    assert np.abs(levels(tmp_path / "out" / "a.png") - levels(source / "a.png")).mean() > 5
    with Image.open(tmp_path / "out" / "sub" / "b.jpg") as picture:
        assert picture.format == "JPEG"


def test_batches_change_nothing(translator: Translator, tmp_path: Path) -> None:
    source = tree(tmp_path / "in", *(f"{name}.png" for name in "abcde"))
    for size in (1, 4):
        assert (
            len(list(translate_files(translator, plan_jobs(source, tmp_path / f"{size}"), "noto", batch_size=size)))
            == 5
        )
    for one in sorted((tmp_path / "1").iterdir()):
        assert np.abs(levels(one) - levels(tmp_path / "4" / one.name)).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (31, 7), (7, 31), (1, 200), (100, 90)])
def test_the_original_size_comes_back(translator: Translator, tmp_path: Path, size: tuple[int, int]) -> None:
    job = Job(draw(tmp_path / "a.png", *size), tmp_path / "b.png")
    assert [one.status for one in translate_files(translator, [job], "fluent")] == ["translated"]
    with Image.open(job.output) as picture:
        assert picture.size == size
    assert [one.status for one in translate_files(translator, [job], "fluent", size=50, overwrite=True)] == [
        "translated"
    ]
    with Image.open(job.output) as picture:
        assert max(picture.size) == 50


def test_what_is_newer_than_its_source_is_left_alone(translator: Translator, tmp_path: Path) -> None:
    source = tree(tmp_path / "in", "a.png", "b.png")
    jobs = plan_jobs(source, tmp_path / "out")

    def done(**options: bool) -> list[str]:
        outcomes = translate_files(translator, jobs, "fluent", **options)
        return sorted(outcome.job.source.stem for outcome in outcomes if outcome.status == "translated")

    assert done() == ["a", "b"]
    assert done() == []
    assert done(overwrite=True) == ["a", "b"]
    later = jobs[0].output.stat().st_mtime + 10
    os.utime(source / "a.png", (later, later))
    assert done() == ["a"]
    jobs[1].output.unlink()
    assert done() == ["a", "b"]  # what was made of a is still older than it


@pytest.mark.parametrize("value", [-1.0, 0.3, math.nan])
def test_outputs_of_one_color_are_told_once(
    translator: Translator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    value: float,
) -> None:
    """Whatever broke the model; a source of one color may well give one."""
    source = tree(tmp_path / "in", "a.png", "b.png", "c.png")
    Image.new("RGB", (20, 20), (10, 200, 30)).save(source / "plain.png")
    list(translate_files(translator, plan_jobs(source, tmp_path / "good"), "fluent", batch_size=2))
    assert "one color" not in caplog.text
    monkeypatch.setattr(Translator, "__call__", lambda self, images, target: torch.full_like(images, value))
    outcomes = list(translate_files(translator, plan_jobs(source, tmp_path / "out"), "fluent", batch_size=2))
    assert [one.status for one in outcomes] == ["translated"] * 4
    [message] = [text for text in caplog.messages if "one color" in text]
    assert message.startswith("3 translations are of one color although their sources are not, the first is ")
    assert str(tmp_path / "out" / "a.png") in message


def test_a_bad_picture_stops_no_other(translator: Translator, tmp_path: Path) -> None:
    source = tree(tmp_path / "in", "a.png", "m.png", "z.png")
    (source / "b.png").write_bytes(b"")
    (source / "c.jpg").write_text("<html>")
    (source / "d.png").write_bytes((source / "a.png").read_bytes()[:60])
    (source / "dangling.png").symlink_to("nothing.png")
    outcomes = list(translate_files(translator, plan_jobs(source, tmp_path / "out"), "fluent", batch_size=2))
    problems = {outcome.job.source.name: outcome.problem for outcome in outcomes if outcome.status == "failed"}
    assert list(problems) == ["b.png", "c.jpg", "d.png", "dangling.png"]
    assert all(f"cannot read the picture {source / name}: " in problem for name, problem in problems.items())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "m.png", "z.png"]


def test_what_its_format_cannot_hold_has_failed(translator: Translator, tmp_path: Path) -> None:
    source = tree(tmp_path / "in", "a.webp")
    draw(source / "long.png", 17000, 1)
    outcomes = list(translate_files(translator, plan_jobs(source, tmp_path / "out", kind="webp"), "fluent"))
    assert [outcome.status for outcome in outcomes] == ["translated", "failed"]
    assert "long.webp as WEBP" in outcomes[1].problem
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.webp"]


def test_a_full_disk_leaves_nothing_half_written(
    translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(draw(tmp_path / "a.png"), tmp_path / "out" / "a.png")

    def full(self: Path, data: object) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match=r"a\.png could not be saved .*No space left"):
        list(translate_files(translator, [job], "fluent"))
    assert list(job.output.parent.iterdir()) == []


def test_wrong_requests_are_refused_before_anything_is_read(translator: Translator) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'fluent'"):
        translate_files(translator, [], "fluentt")
    with pytest.raises(ConfigError, match="the batch is 0"):
        translate_files(translator, [], "fluent", batch_size=0)
    for size in (0, 100_000):
        with pytest.raises(ConfigError, match=f"the size is {size}; expected 1 to 16384"):
            translate_files(translator, [], "fluent", size=size)


def test_too_little_memory_names_the_way_out(
    translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Translator, "__call__", fail)
    with pytest.raises(ConfigError, match="batch of 1; use a smaller --batch"):
        list(translate_files(translator, [Job(draw(tmp_path / "a.png"), tmp_path / "b.png")], "fluent"))


def test_memory_does_not_grow_with_the_folder(
    translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = plan_jobs(tree(tmp_path / "in", *(f"{n}.png" for n in range(9))), tmp_path / "out")
    seen: list[Path] = []

    def load(job: Job, **options: Any) -> object:
        seen.append(job.source)
        return real(job, **options)

    real = picture_files._load
    monkeypatch.setattr(picture_files, "_load", load)
    outcomes = translate_files(translator, jobs, "fluent", batch_size=3)
    next(outcomes)
    assert len(seen) == 3
    assert len(list(outcomes)) == 8
    assert len(seen) == 9
