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
def golden() -> Path:
    """The folder of golden numbers; tests that use it carry ``@pytest.mark.golden``."""
    return GOLDEN
