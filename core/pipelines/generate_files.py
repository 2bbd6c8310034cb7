"""Generated pictures as files: one by one, and all on one sheet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cyclevar.core.data.grids import COLUMNS, ROWS, picture_grid
from cyclevar.core.data.images import save_picture
from cyclevar.core.data.transforms import to_picture
from cyclevar.core.errors import ConfigError
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.generation import generate_each
from cyclevar.core.pipelines.translate_files import require_folder


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


def _file_names(targets: Sequence[int | str]) -> list[str]:
    """A short name for each target, numbered where two would be called alike."""
    names = [re.sub(r"[^\w-]+", "_", str(target)).strip("_")[:40] or "picture" for target in targets]
    if len(set(names)) < len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names)]
    return names
