"""What all tests share: few threads, the switches for what is left out, and the folder of golden numbers."""

from __future__ import annotations

import os
import socket
import struct
import tomllib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Before torch is imported: the suite's small tensors gain nothing from more, and results do not depend on the machine.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "2")

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(os.environ.get("CYCLEVAR_GOLDEN", ROOT.parent / "shared" / "golden"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip by marker, saying what would run the test."""
    if item.get_closest_marker("slow") and os.environ.get("CYCLEVAR_SLOW", "0") in ("", "0"):
        pytest.skip("slow: run with CYCLEVAR_SLOW=1")
    if item.get_closest_marker("golden") and not GOLDEN.is_dir():
        pytest.skip("no golden numbers: set CYCLEVAR_GOLDEN to their folder")
    if item.get_closest_marker("cuda") and not _cuda():
        pytest.skip("no CUDA device")


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches of this test run go to a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYCLEVAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 discs and 40 squares of all colours, 16 px, in the folders discs and squares; not to be changed."""
    from PIL import Image, ImageDraw

    folder = tmp_path_factory.mktemp("shapes")
    for kind in ("discs", "squares"):
        (folder / kind).mkdir()
        for i in range(40):
            picture = Image.new("RGB", (16, 16), "white")
            shape = ImageDraw.Draw(picture).ellipse if kind == "discs" else ImageDraw.Draw(picture).rectangle
            shape((i % 5, i % 7, i % 5 + 7, i % 7 + 7), fill=(37 * i % 256, 91 * i % 256, 53 * i % 256))
            picture.save(folder / kind / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def small_translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained translator, noto <-> fluent, for pictures of 16 px; labels matter to it."""
    import torch

    import cyclevar

    settings = {
        "tokenizer": {
            "codebook_size": 32,
            "channels": 8,
            "width": 32,
            "multipliers": [1],
            "residual_blocks": 1,
            "patch": 4,
        },
        "backbone": {"depth": 2, "width": 32, "heads": 2, "classes": 2, "class_names": ["noto", "fluent"]},
        "schedule": "1-2-4",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = cyclevar.build("var", settings)
    with torch.no_grad():
        for name in ("class_embedding", "head.weight", "head_modulation.weight"):
            model.backbone.get_parameter(name).mul_(20)
    folder = tmp_path_factory.mktemp("translators") / "small"
    cyclevar.Translator(model).save(folder)
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden numbers; tests that use it carry ``@pytest.mark.golden``."""
    return GOLDEN


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings that name a tiny open_clip model, registered there, and a file with random weights of it."""
    import json

    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("clip")
    vision = {"image_size": 32, "layers": 3, "width": 16, "head_width": 8, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
    description = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}
    (folder / "cyclevar-small.json").write_text(json.dumps(description))
    open_clip.add_model_config(folder / "cyclevar-small.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model("cyclevar-small")
    torch.save(model.state_dict(), folder / "weights.pt")
    return {"model": "cyclevar-small", "weights": str(folder / "weights.pt")}


def fill_with_hostile_pictures(folder: Path) -> dict[str, str]:
    """Every kind of picture that a careless or hostile person may leave in a folder: name -> why it cannot be read.

    The reason is a part of the message, and empty for what can be read. Nothing here needs a user that is not root.
    """
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:48, 0:64]
    photo = Image.fromarray(np.stack([x * 3, y * 5, 255 - x * 2], axis=-1).astype(np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    photo.save(folder / "turned.jpg", exif=turned)
    photo.save(folder / "wrong-ending.png", "JPEG")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.quantize(8).save(folder / "palette.png", transparency=0)
    photo.save(folder / "animated.gif", save_all=True, append_images=[photo.rotate(90), photo.rotate(180)])
    Image.fromarray((x * 1000).astype(np.uint16)).save(folder / "deep.png")
    Image.new("L", (6000, 3500), 99).save(folder / "huge.png")
    Image.new("RGB", (1, 1), "red").save(folder / "dot.bmp")
    readable = [path.name for path in folder.iterdir()]

    whole = (folder / "turned.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) * 9 // 10])
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("no picture")
    chunks = (b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(1000)))
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    (folder / "dangling.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    bad = {
        "truncated.jpg": "truncated",
        "empty.png": "empty",
        "text.jpg": "not a picture",
        "bomb.png": "decompression bomb",
        "dangling.png": "No such file",
        "pipe.png": "not a file",
    }
    return dict.fromkeys(readable, "") | bad


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder that `fill_with_hostile_pictures` filled, and what is wrong with what is in it."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    return folder, fill_with_hostile_pictures(folder)


@pytest.fixture
def install_packages(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Installs packages, folders with a pyproject.toml, for processes that are given the environment it returns."""

    def install(*folders: Path) -> dict[str, str]:
        site = tmp_path / "site"
        for folder in folders:
            project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
            info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
            info.mkdir(parents=True)
            lines = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}"]
            lines += [f"Requires-Dist: {requirement}" for requirement in project.get("dependencies", [])]
            (info / "METADATA").write_text("\n".join([*lines, ""]))
            points = [f"{name} = {module}" for name, module in project["entry-points"]["cyclevar"].items()]
            (info / "entry_points.txt").write_text("\n".join(["[cyclevar]", *points, ""]))
        paths = [str(path) for path in (site, *(folder / "src" for folder in folders))]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    return install
