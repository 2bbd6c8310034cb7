"""Generated pictures as files: one by one, and all on one sheet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import make_grid

from cyclevar.core.data.transforms import to_picture
from cyclevar.core.errors import ConfigError
from cyclevar.core.generation import generate_each
from cyclevar.core.model import Model
from cyclevar.core.picture_files import require_folder, save_picture

COLUMNS, ROWS = 12, 8
"""Most pictures of a target side by side on the sheet, and most rows of them."""


def generate_files(
    model: Model,
    targets: Sequence[int | str],
    out: Path,
    *,
    count: int = 8,
    batch_size: int = 8,
    seed: int = 0,
    grid: bool = True,
    **settings: Any,
) -> Iterator[Path]:
    """Draw ``count`` pictures of every target into the folder ``out`` and yield each file as it is written.

    ``OUT/TARGET-SEED-NUMBER.png``; with ``grid`` at last ``OUT/grid-SEED.png``, on which every target begins a new row.
    ``settings`` are those of `generate_each`.

    Raises `ConfigError` for a wrong setting, before anything is written.
    """
    for name, value in (("count", count), ("batch", batch_size)):
        if value < 1:
            raise ConfigError(f"the {name} is {value}", expected="1 or more")
    if seed < 0:
        raise ConfigError(f"the seed is {seed}", expected="0 or more")
    require_folder(out)
    names = _file_names(targets)
    drawn = generate_each(model, targets, count, batch_size=batch_size, seed=seed, **settings)

    def write() -> Iterator[Path]:
        shown: list[list[Tensor]] = [[] for _ in targets]
        for position, number, image in drawn:
            if number < COLUMNS * ROWS:
                shown[position].append(image.cpu())
            path = out / f"{names[position]}-{seed}-{number:03}.png"
            save_picture(to_picture(image), path)
            yield path
        if grid:
            path = out / f"grid-{seed}.png"
            save_picture(to_picture(picture_grid(shown)), path)
            yield path

    return write()


def picture_grid(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Pictures ``[3,H,W]`` in [-1,1] of one size on one white sheet: each of ``rows`` begins a new line."""
    columns = min(COLUMNS, max(map(len, rows)))
    sheets = [make_grid(list(row), nrow=columns, pad_value=1.0, padding=2) for row in rows]
    width = max(sheet.shape[2] for sheet in sheets)
    return torch.cat(
        [torch.nn.functional.pad(sheet, (0, width - sheet.shape[2]), value=1.0) for sheet in sheets], dim=1
    )


def _file_names(targets: Sequence[int | str]) -> list[str]:
    """A short name for each target, numbered where two would be called alike."""
    names = [re.sub(r"[^\w-]+", "_", str(target)).strip("_")[:40] or "picture" for target in targets]
    if len(set(names)) < len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names)]
    return names
