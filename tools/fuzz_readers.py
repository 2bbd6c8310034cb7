"""Feeds mutated files to what reads pictures, archives and checkpoints, guided by the code that they reach (atheris).

    pip install atheris
    python tools/fuzz_readers.py picture|archive|checkpoint|pickle --seconds 300 [--keep DIR]

Starts from small valid files of every kind. Anything but an error of cyclevar's own ends it with a traceback and the
file that did it, in DIR or the current folder.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("fuzz_readers: atheris is missing; pip install atheris")

import numpy as np
import safetensors.torch
import torch
from torch._weights_only_unpickler import Unpickler

with atheris.instrument_imports(include=["PIL", "tarfile", "cyclevar"]):
    from PIL import Image

    from cyclevar.core.data.images import read_picture
    from cyclevar.core.errors import CyclevarError
    from cyclevar.core.pipelines import webdataset as picture_archives
    from cyclevar.core.weights.checkpoints import load_published, load_tensors


Unpickler.load = atheris.instrument_func(Unpickler.load)


def pictures() -> list[bytes]:
    """A picture in every format and some of their modes."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    found = []
    for kind, modes in {
        "PNG": ("RGB", "RGBA", "P", "L", "1", "I;16"),
        "JPEG": ("RGB", "L", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "BMP": ("RGB", "P"),
        "TIFF": ("RGB", "CMYK", "F", "I;16"),
        "GIF": ("P",),
    }.items():
        for mode in modes:
            file, plain = io.BytesIO(), Image.fromarray(pixels)
            (plain.convert("I").convert(mode) if mode == "I;16" else plain.convert(mode)).save(file, kind)
            found.append(file.getvalue())
    return found


def archives() -> list[bytes]:
    """Tar archives of a sample, plain and packed, and one with names that lead out."""
    found = []
    for mode, name in (("w", "a"), ("w:gz", "a"), ("w", "../a"), ("w", "/a")):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
            for suffix, content in ((".png", pictures()[0]), (".json", b"{}")):
                info = tarfile.TarInfo(name + suffix)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        found.append(file.getvalue())
    return found


def checkpoints() -> list[bytes]:
    """A safetensors file."""
    return [safetensors.torch.save({"a": torch.ones(2, 3), "b": torch.arange(3)}, {"step": "1"})]


def pickles() -> list[bytes]:
    """What ``torch.save`` writes, as it does now and as it did."""
    found = []
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save({"a": torch.ones(2, 3), "b": {"c": 1.5}}, file, _use_new_zipfile_serialization=zipped)
        found.append(file.getvalue())
    return found


def read_archive(path: Path) -> None:
    """All members of an archive, as translating it meets them."""
    job = picture_archives.ArchiveJob(path, path.with_name("out.tar"))
    for sample in picture_archives._samples(job):
        for member in sample:
            if member.picture and not member.problem:
                picture_archives._load(member, (16, 16))


def read_checkpoint(path: Path) -> None:
    """As one of ours, and as a published one."""
    load_tensors(path)
    load_published(path)


SEEDS: dict[str, tuple[Callable[[], list[bytes]], str, Callable[[Path], object]]] = {
    "picture": (pictures, "file.png", lambda path: read_picture(path.read_bytes())),
    "archive": (archives, "file.tar", read_archive),
    "checkpoint": (checkpoints, "file.safetensors", read_checkpoint),
    "pickle": (pickles, "file.pth", load_published),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("reader", choices=SEEDS)
    arguments.add_argument("--seconds", type=int, default=300)
    arguments.add_argument("--keep", type=Path, default=Path())
    given = arguments.parse_args()
    make, name, read = SEEDS[given.reader]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        corpus, path = Path(temporary) / "corpus", Path(temporary) / name
        corpus.mkdir()
        for number, content in enumerate(make()):
            (corpus / str(number)).write_bytes(content)

        def once(content: bytes) -> None:
            path.write_bytes(content)
            with contextlib.suppress(CyclevarError):
                read(path)

        limits = [f"-max_total_time={given.seconds}", "-max_len=4096", "-timeout=300", "-rss_limit_mb=6000"]
        given.keep.mkdir(parents=True, exist_ok=True)
        atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={given.keep}/", str(corpus)], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
