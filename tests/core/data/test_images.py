"""Every kind of picture comes out as what a viewer would show, and every damaged one as a PictureError."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyclevar.core.data import images as pictures
from cyclevar.core.data.images import describe_picture, read_picture
from cyclevar.core.errors import PictureError


def saved(path: Path, picture: Image.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path


@pytest.fixture
def photo() -> Image.Image:
    y, x = np.mgrid[0:40, 0:60]
    return Image.fromarray(np.stack([x * 4, y * 6, 255 - x * 2], axis=-1).astype(np.uint8))


def furthest(picture: Image.Image, expected: Image.Image) -> int:
    assert picture.mode == "RGB"
    assert picture.size == expected.size
    return int(np.abs(np.asarray(picture, int) - np.asarray(expected, int)).max())


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_rgb_is_unchanged(tmp_path: Path, photo: Image.Image, suffix: str) -> None:
    path = saved(tmp_path / f"p.{suffix}", photo, **({"lossless": True} if suffix == "webp" else {}))
    assert furthest(read_picture(path), photo) == 0
    assert furthest(read_picture(path.read_bytes()), photo) == 0


def test_cmyk_jpeg(tmp_path: Path) -> None:
    red = Image.new("RGB", (16, 16), (250, 10, 10))
    path = saved(tmp_path / "p.jpg", red.convert("CMYK"), quality=100)
    assert furthest(read_picture(path), red) < 6


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(2, 0)
    grey = np.asarray(read_picture(saved(tmp_path / f"p.{suffix}", Image.fromarray(ramp))))
    assert np.array_equal(grey[0, :, 0], np.arange(256))
    assert np.array_equal(grey[..., 0], grey[..., 2])


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_float_ramp_spans_the_range(tmp_path: Path, white: float) -> None:
    ramp = np.linspace(0, white, 256, dtype=np.float32)[None].repeat(2, 0)
    ramp[1, 0] = np.nan
    grey = np.asarray(read_picture(saved(tmp_path / "p.tiff", Image.fromarray(ramp))))
    assert np.array_equal(grey[0, :, 1], np.arange(256))
    assert grey[1, 0, 0] == 0


def test_thirty_two_bit_integers(tmp_path: Path) -> None:
    ramp = np.linspace(0, 2**31 - 1, 256).astype(np.int32)[None]
    grey = np.asarray(read_picture(saved(tmp_path / "p.tiff", Image.fromarray(ramp))))
    assert np.abs(grey[0, :, 0].astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_on_white(tmp_path: Path, mode: str) -> None:
    black = Image.new(mode, (3, 1), 0)
    black.putalpha(Image.fromarray(np.array([[0, 128, 255]], np.uint8)))
    levels = np.asarray(read_picture(saved(tmp_path / "p.png", black)))[0, :, 0]
    assert levels.tolist() == [255, 127, 0]


def test_transparent_palette_is_laid_on_white(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([10, 20, 30, 200, 0, 0])
    picture.putpixel((1, 0), 1)
    pixels = np.asarray(read_picture(saved(tmp_path / "p.png", picture, transparency=0)))
    assert pixels.tolist() == [[[255, 255, 255], [200, 0, 0]]]


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_few_colours(tmp_path: Path, mode: str) -> None:
    assert (
        furthest(
            read_picture(saved(tmp_path / "p.png", Image.new("RGB", (5, 4), "white").convert(mode))),
            Image.new("RGB", (5, 4), "white"),
        )
        == 0
    )


def test_exif_orientation(tmp_path: Path, photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    path = saved(tmp_path / "p.png", photo, exif=exif)
    assert furthest(read_picture(path), photo.transpose(Image.Transpose.ROTATE_270)) == 0


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"p.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    assert furthest(read_picture(path), frames[0]) == 0


def test_one_pixel(tmp_path: Path) -> None:
    assert read_picture(saved(tmp_path / "p.png", Image.new("L", (1, 1), 7))).getpixel((0, 0)) == (7, 7, 7)


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_damaged_pictures_are_named(tmp_path: Path, photo: Image.Image) -> None:
    jpeg = saved(tmp_path / "whole.jpg", photo).read_bytes()
    whole = png(photo)
    cases = {
        "empty.png": (b"", "empty"),
        "text.png": (b"this is no picture", "not a picture"),
        "half.png": (whole[: len(whole) // 2], ""),
        "half.jpg": (jpeg[: len(jpeg) * 9 // 10], "truncated"),
        "header.png": (whole[:20], ""),
        "flipped.png": (whole[:60] + bytes(255 - b for b in whole[60:90]) + whole[90:], ""),
        "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    }
    for name, (content, reason) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(PictureError) as caught:
            read_picture(path)
        assert str(path) in caught.value.problem
        assert reason in caught.value.problem


def test_cut_picture_is_refused_or_complete(photo: Image.Image) -> None:
    """A PNG may end early and still hold every pixel; half a picture must never pass for a whole one."""
    small = photo.resize((9, 7))
    whole = png(small)
    for length in range(len(whole)):
        try:
            assert furthest(read_picture(whole[:length], name="cut"), small) == 0
        except PictureError as error:
            assert "cannot read the picture cut" in error.problem  # noqa: PT017


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_damage_anywhere_raises_nothing_else(photo: Image.Image, kind: str) -> None:
    buffer = io.BytesIO()
    photo.resize((9, 7)).save(buffer, kind)
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = np.frombuffer(buffer.getvalue(), np.uint8).copy()
        damaged[rng.integers(damaged.size, size=3)] = rng.integers(256, size=3)
        try:
            assert read_picture(damaged[: rng.integers(1, damaged.size + 1)].tobytes()).mode == "RGB"
        except PictureError:
            continue


def test_missing_folder_and_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PictureError, match="No such file"):
        read_picture(tmp_path / "none.png")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(PictureError, match=r"a\.png"):
        read_picture(tmp_path / "a.png")

    def forbidden(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "b.png").write_bytes(b"there")
    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(PictureError, match=r"b\.png: Permission denied"):
        read_picture(tmp_path / "b.png")


def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch, photo: Image.Image) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PictureError, match="pixels"):
        read_picture(png(photo), name="bomb.png")


def test_hostile_pictures(hostile: tuple[Path, dict[str, str]]) -> None:
    folder, expected = hostile
    for name, reason in expected.items():
        if not reason:
            assert read_picture(folder / name).mode == "RGB"
            continue
        with pytest.raises(PictureError, match=reason):
            read_picture(folder / name)


def test_a_file_larger_than_any_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "LARGEST_FILE", 100)
    (tmp_path / "a.png").write_bytes(b"x" * 101)
    with pytest.raises(PictureError, match="the file has 101 bytes, more than any picture"):
        read_picture(tmp_path / "a.png")


def test_what_a_file_says_of_its_picture(hostile: tuple[Path, dict[str, str]]) -> None:
    folder, _ = hostile
    facts = {path.name: describe_picture(path)[0] for path in folder.iterdir() if not hostile[1][path.name]}
    assert {name for name, one in facts.items() if one.turned} == {"turned.jpg"}
    assert facts["turned.jpg"].size == (48, 64)
    assert {name: one.frames for name, one in facts.items() if one.frames > 1} == {"animated.gif": 3}
    assert {name for name, one in facts.items() if one.transparent} == {"palette.png"}
    assert {name for name, one in facts.items() if one.deep} == {"deep.png"}
    assert (facts["wrong-ending.png"].kind, facts["cmyk.jpg"].mode, facts["huge.png"].size) == (
        "JPEG", "CMYK", (6000, 3500),
    )  # fmt: skip
