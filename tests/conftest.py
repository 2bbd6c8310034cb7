"""What all tests share: few threads, the switches for what is left out, and the folder of golden numbers."""

from __future__ import annotations

import os
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


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


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
