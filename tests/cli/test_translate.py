"""``cyclevar translate`` as a user meets it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclevar.cli.main import main
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.weights import shipped

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def translate(capsys: pytest.CaptureFixture[str], small_translator: Path) -> Run:
    """Runs ``cyclevar translate`` with the small translator; gives exit code, standard output and standard error."""

    def translate(*arguments: object, model: object = small_translator) -> tuple[int, str, str]:
        code = main(["translate", "--model", str(model), "--device", "cpu", *map(str, arguments)])
        return code, *capsys.readouterr()

    return translate


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three pictures, one in a sub-folder."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.jpg", "sub/c.webp")):
        pixels = np.random.default_rng(seed).integers(0, 256, (20 + seed, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def found(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_a_folder(translate: Run, source: Path, tmp_path: Path, small_translator: Path) -> None:
    out = tmp_path / "out"
    code, printed, errors = translate(source, out, "--to", "noto", "--batch", 2)
    assert (code, errors) == (0, "")
    assert printed.splitlines() == [
        f"{small_translator} translates to noto: parallel, temperature 2, fusion 0.5, on cpu",
        f"3 translated: {out}",
    ]
    assert found(out) == found(source) == ["a.png", "b.jpg", "sub/c.webp"]
    assert [size_of(out / name) for name in found(out)] == [(30, 20), (30, 21), (30, 22)]

    assert translate(source, out)[1].splitlines()[1] == f"3 already there: {out}"
    (out / "a.png").unlink()
    assert translate(source, out)[1].splitlines()[1] == f"1 translated, 2 already there: {out}"
    assert translate(source, out, "--overwrite")[1].splitlines()[1] == f"3 translated: {out}"


def test_one_picture_with_every_option(translate: Run, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "result.png"
    options = ["--mode", "serial", "--temperature", 0.5, "--fusion", 0.9, "--set", "serial=literal", "--size", 64]
    code, printed, _ = translate(source / "a.png", out, *options)
    assert code == 0
    assert printed.splitlines()[0].endswith(
        "translates to fluent: serial, temperature 0.5, fusion 0.9, serial literal, on cpu"
    )
    assert size_of(out) == (64, 43)
    assert translate(source / "a.png", tmp_path / "more", "--format", "webp")[0] == 0
    assert found(tmp_path / "more") == ["a.webp"]


def test_settings_change_the_picture(translate: Run, source: Path, tmp_path: Path) -> None:
    variants = {
        "plain": [],
        "again": [],
        "noto": ["--to", "noto"],
        "fusion": ["--fusion", 1],
        "cool": ["--set", "fusion=1"],
    }
    for name, options in variants.items():
        assert translate(source / "a.png", tmp_path / f"{name}.png", *options)[0] == 0
    content = {name: (tmp_path / f"{name}.png").read_bytes() for name in variants}
    assert content["plain"] == content["again"]
    assert content["fusion"] == content["cool"]
    assert len({content[name] for name in ("plain", "noto", "fusion")}) == 3


def test_shards_and_archives(translate: Run, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, errors = translate(source, out, "--format", "wds", "--per-archive", 2, "--shard", "1/2")
    assert (code, errors) == (0, "")
    assert printed.splitlines()[1] == f"2 translated: {out}"
    assert found(out) == ["00000.tar", "manifest-1-of-2.jsonl"]
    assert translate(source, out, "--format", "wds", "--per-archive", 2, "--shard", "2/2")[0] == 0
    code, printed, errors = translate(out, tmp_path / "again", "--to", "noto", "--format", "jpg", "--shard", "1/1")
    assert (code, errors) == (0, "")
    assert printed.splitlines()[1] == f"3 translated: {tmp_path / 'again'}"
    assert found(tmp_path / "again") == ["00000.tar", "00001.tar", "manifest-1-of-1.jsonl"]
    with tarfile.open(tmp_path / "again" / "00001.tar") as tar:
        assert tar.getnames() == ["sub/c.jpg"]
    code, _, errors = translate(out, tmp_path / "again", "--to", "fluent", "--format", "jpg", "--shard", "1/1")
    assert (code, errors.count("\n")) == (2, 1)
    assert "were made with another target" in errors


def test_bad_pictures_are_named_and_the_others_translated(translate: Run, source: Path, tmp_path: Path) -> None:
    (source / "empty.png").touch()
    (source / "sub" / "text.jpg").write_text("no picture")
    (source / "cut.jpg").write_bytes((source / "b.jpg").read_bytes()[:300])
    code, printed, errors = translate(source, tmp_path / "out")
    assert code == 1
    assert printed.splitlines()[1] == f"3 translated, 3 failed: {tmp_path / 'out'}"
    assert found(tmp_path / "out") == ["a.png", "b.jpg", "sub/c.webp"]
    assert [line.split(":")[2].strip() for line in errors.splitlines()] == [
        f"cannot read the picture {source / name}" for name in ("cut.jpg", "empty.png", "sub/text.jpg")
    ]
    code, _, errors = translate(source / "empty.png", tmp_path / "out.png")
    assert (code, errors.count("\n")) == (1, 1)
    assert not (tmp_path / "out.png").exists()


def test_pictures_of_every_kind(translate: Run, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 18, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    rgb.save(source / "turned.jpg", exif=turned)
    rgb.convert("CMYK").save(source / "cmyk.jpg")
    rgb.convert("RGBA").save(source / "alpha.png")
    rgb.convert("P").save(source / "palette.gif", save_all=True, append_images=[rgb.convert("P").rotate(90)])
    Image.fromarray(np.arange(0, 60000, 250, np.uint16).reshape(12, 20)).save(source / "deep.png")
    Image.new("RGB", (1, 1), "red").save(source / "dot.bmp")
    code, _, errors = translate(source, tmp_path / "out")
    assert (code, errors) == (0, "")
    sizes = {name: size_of(tmp_path / "out" / name) for name in found(tmp_path / "out")}
    assert sizes == {
        "alpha.png": (18, 12),
        "cmyk.jpg": (18, 12),
        "deep.png": (20, 12),
        "dot.bmp": (1, 1),
        "palette.png": (18, 12),
        "turned.jpg": (12, 18),
    }


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["in", "out", "--to", "fluentt"],
            "no domain named 'fluentt'; expected one of fluent, noto; did you mean 'fluent'?",
        ),
        (["none", "out"], "none does not exist; expected a picture or a folder of pictures"),
        (["in/empty", "out"], "no pictures in in/empty; expected files ending in"),
        (["in", "in/out"], "the translations would lie inside in"),
        (["in", "in/a.png"], "in/a.png is a file; expected a folder"),
        (["in/a.png", "in/a.png"], "the translation would overwrite in/a.png"),
        (["in", "out", "--format", "pgn"], "did you mean 'png'?"),
        (["in", "out", "--mode", "paralel"], "mode is 'paralel'; expected 'parallel' or 'serial'"),
        (["in", "out", "--fusion", "0"], "fusion is 0.0; expected greater than 0"),
        (["in", "out", "--set", "temprature=1"], "did you mean 'temperature'?"),
        (["in", "out", "--size", "0"], "the size is 0; expected 1 to 16384"),
        (["in", "out", "--batch", "0"], "the batch is 0; expected 1 or more"),
        (["in", "out", "--sise", "4"], "did you mean --size?"),
        (["in", "out", "--shard", "3/2"], "the shard is '3/2'; expected I/N with I from 1 to N"),
    ],
)
def test_what_is_wrong_is_one_line(
    translate: Run, source: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str
) -> None:
    monkeypatch.chdir(source.parent)
    (source / "empty").mkdir()
    before = found(source)
    code, _, errors = translate(*arguments)
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("cyclevar: error: ")
    assert line in errors
    assert found(source) == before
    assert not Path("out").exists()


def test_wrong_models_and_devices_are_one_line(
    translate: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_translator: Path
) -> None:
    monkeypatch.setattr(shipped, "TRANSLATORS", small_translator.parent)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    wrong = {"smal": "did you mean 'small'?", tmp_path / "run": "has not finished", source: "is no translator"}
    for model, line in wrong.items():
        code, _, errors = translate(source, tmp_path / "out", model=model)
        assert (code, errors.count("\n")) == (2, 1)
        assert line in errors
    code, _, errors = translate(source, tmp_path / "out", "--device", "cuda:9")
    assert (code, "there is no device cuda:9" in errors) == (2, True)
    damaged = Path(shutil.copytree(small_translator, tmp_path / "damaged"))
    (damaged / shipped.WEIGHTS).write_bytes(b"\x80\x04}.")
    code, _, errors = translate(source, tmp_path / "out", model=damaged)
    assert (code, errors.count("\n")) == (2, 1)
    assert "not a safetensors file" in errors
    assert translate(source, tmp_path / "out", model="small")[0] == 0


def test_a_model_without_two_domains_wants_to_be_told(
    translate: Run, source: Path, tmp_path: Path, small_translator: Path
) -> None:
    from cyclevar.core.pipelines.translator import Translator

    Translator(Translator.load(small_translator).model, domains=["one"], targets=[0]).save(tmp_path / "one")
    code, _, errors = translate(source, tmp_path / "out", model=tmp_path / "one")
    assert (code, errors.count("\n")) == (2, 1)
    assert "which domain to translate to is not said; expected one of one" in errors
    assert translate(source, tmp_path / "out", "--to", "one", model=tmp_path / "one")[0] == 0


def test_a_full_disk_is_one_line_and_names_the_bad_pictures_too(
    translate: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "a.png").write_bytes(b"")

    def full(self: Path, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, errors = translate(source, tmp_path / "out", "--batch", 1)
    assert code == 2
    assert [line.split(":")[2] for line in errors.splitlines()] == [
        f" cannot read the picture {source / 'a.png'}",
        f" {tmp_path / 'out' / 'b.jpg'} could not be saved ([Errno 28] No space left on device); free some disk space"
        " or choose another folder; what was saved before is untouched.",
    ]
    assert found(tmp_path / "out") == []


def test_a_terminal_gets_a_bar(source: Path, tmp_path: Path, small_translator: Path) -> None:
    command = [sys.executable, "-m", "cyclevar.cli.main", "translate", source, tmp_path / "out", "--model"]
    done = subprocess.run(
        [*map(str, command), str(small_translator), "--device", "cpu"],
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stderr
    assert "3 translated" in done.stdout


def test_the_best_step_of_a_run(translate: Run, source: Path, tmp_path: Path, small_translator: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_translator, run)
    best = Translator.load(small_translator, fusion=0.75)
    best.save(run / "best")
    code, printed, _ = translate(source, tmp_path / "last", "--to", "noto", model=run)
    assert code == 0
    assert "fusion 0.5" in printed
    code, printed, _ = translate(source, tmp_path / "best", "--to", "noto", "--checkpoint", "best", model=run)
    assert code == 0
    assert "fusion 0.75" in printed
    code, _, errors = translate(source, tmp_path / "none", "--checkpoint", "best")
    assert code == 2
    assert "has no translator of a best step" in errors
    assert not (tmp_path / "none").exists()


def test_int8(translate: Run, source: Path, tmp_path: Path) -> None:
    for name, options in (("exact", []), ("int8", ["--int8"])):
        assert translate(source, tmp_path / name, "--to", "noto", *options)[0] == 0
    assert found(tmp_path / "exact") == found(tmp_path / "int8")
    exact, near = (np.asarray(Image.open(tmp_path / name / "a.png")).astype(int) for name in ("exact", "int8"))
    assert abs(exact - near).mean() < 3
