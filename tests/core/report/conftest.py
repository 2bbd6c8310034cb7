"""Run folders made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from cyclevar.core.config.base import Settings
from cyclevar.core.config.training import TrainConfig

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a run folder: its settings, logged lines, steps with a sample sheet, and further files by name."""

    def make(
        name: str = "run",
        config: Settings | None = None,
        lines: tuple[Any, ...] = (),
        sheets: tuple[int, ...] = (),
        **files: str,
    ) -> Path:
        folder = tmp_path / name
        (folder / "samples").mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump((config or TrainConfig()).model_dump(mode="json")))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for step in sheets:
            Image.new("RGB", (24, 16), (step % 256, 0, 0)).save(folder / "samples" / f"step-{step:08d}.png")
        for file, text in files.items():
            (folder / file.replace("_", ".")).write_text(text)
        return folder

    return make
