"""The function from batch to batch by itself, and on a local cluster of two workers."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.pipelines.ray import PictureTranslator, require_ray
from cyclevar.core.pipelines.translate_files import plan_jobs, translate_files
from cyclevar.core.pipelines.translator import Translator


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for seed in range(5):
        pixels = np.random.default_rng(seed).integers(0, 256, (16 + seed, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{seed}.png")
    return tmp_path / "in"


def expected(small_translator: Path, source: Path, out: Path) -> dict[str, bytes]:
    translator = Translator.load(small_translator).for_inference()
    list(translate_files(translator, plan_jobs(source, out), "fluent", batch_size=2))
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_batch_becomes_what_the_files_become(small_translator: Path, source: Path, tmp_path: Path) -> None:
    paths = sorted(source.iterdir())
    batch = {
        "path": np.array([str(path) for path in paths]),
        "bytes": np.array([p.read_bytes() for p in paths], object),
    }
    made = PictureTranslator(str(small_translator), device="cpu", batch_size=2)({**batch, "label": np.arange(5)})
    assert list(made["label"]) == list(range(5))
    assert list(made["problem"]) == [""] * 5
    wanted = expected(small_translator, source, tmp_path / "out")
    assert {path.name: content for path, content in zip(paths, made["bytes"], strict=True)} == wanted


def test_bad_pictures_keep_their_row(small_translator: Path, source: Path) -> None:
    translate = PictureTranslator(str(small_translator), "noto", kind="webp", size=64, device="cpu")
    made = translate({"bytes": np.array([b"", (source / "0.png").read_bytes(), b"no picture"], object)})
    assert [bool(problem) for problem in made["problem"]] == [True, False, True]
    assert "cannot read the picture picture 2: not a picture" in made["problem"][2]
    assert [len(content) > 0 for content in made["bytes"]] == [False, True, False]
    with Image.open(io.BytesIO(made["bytes"][1])) as picture:
        assert (picture.format, picture.size) == ("WEBP", (64, 51))


def test_what_cannot_be_done_is_said_at_once(small_translator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'fluent'"):
        PictureTranslator(str(small_translator), "fluentt", device="cpu")
    with pytest.raises(UnknownNameError, match="did you mean 'png'"):
        PictureTranslator(str(small_translator), kind="pgn", device="cpu")

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'cyclevar\[ray\]'"):
        require_ray()


CLUSTER = """
import sys
import ray
from cyclevar.core.pipelines.ray import translate_dataset

ray.init(num_cpus=3, include_dashboard=False, logging_level="error")
source, model, out = sys.argv[1:]
pictures = ray.data.read_binary_files(source, include_paths=True, override_num_blocks=4)
made = translate_dataset(pictures, model, "fluent", workers=2, batch_size=2)
for row in made.take_all():
    assert not row["problem"], row["problem"]
    with open(f"{out}/{row['path'].rsplit('/', 1)[1]}", "wb") as file:
        file.write(row["bytes"])
"""


@pytest.mark.slow
def test_on_a_local_cluster_of_two_workers(small_translator: Path, source: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="no ray: pip install 'cyclevar[ray]'")
    (tmp_path / "made").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, str(source), str(small_translator), str(tmp_path / "made")],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    made = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    assert made == expected(small_translator, source, tmp_path / "out")
