"""The tool that times attention: its table, and what it says of the way that is taken."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def tool(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("time_attention", root / "tools" / "time_attention.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SMALL = ("--schedule", "1-2-3", "--heads", "2", "--head-dim", "16", "--seconds", "0.005")


def rows(printed: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines[1:]}


def test_on_the_processor(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    tool.main(["--device", "cpu", *SMALL])
    printed = capsys.readouterr().out
    found = rows(printed)
    assert list(found) == ["sdpa", "dense"]
    for forward, captured, both, difference, of_gradients in found.values():
        assert min(float(forward), float(both)) > 0
        assert captured == "-"
        assert max(float(difference), float(of_gradients)) < 1e-5
    assert len(re.findall(r"taken is sdpa; fastest is (sdpa|dense)", printed)) == 2


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_on_a_gpu(tool: ModuleType, capsys: pytest.CaptureFixture[str], dtype: str) -> None:
    tool.main(["--device", "cuda", "--dtype", dtype, *SMALL])
    printed = capsys.readouterr().out
    found = rows(printed)
    assert {"sdpa", "dense"} <= set(found)
    assert float(found["sdpa"][1]) > 0
    assert all(float(cells[3]) < 0.1 for cells in found.values() if cells[3] != "-")
