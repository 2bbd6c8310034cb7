"""Judging folders of pictures, whoever made them, as translators are judged."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cyclevar.core.evaluation.evaluate import compare
from cyclevar.core.evaluation.feature_cache import FeatureCache
from cyclevar.core.evaluation.feature_extraction import Progress
from cyclevar.core.evaluation.image_sets import (
    check_limit,
    common_size,
    match_names,
    open_folder,
    read_set,
    refuse_shared,
)
from cyclevar.core.evaluation.networks import Judges
from cyclevar.core.evaluation.results import METRICS, Evaluation


def evaluate_folders(
    generated: Path,
    target: Path,
    source: Path | None = None,
    *,
    judges: Judges,
    size: int | None = None,
    limit: int | None = None,
    metrics: Collection[str] = METRICS,
    force: bool = False,
    batch_size: int = 16,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge the pictures in ``generated`` against those in ``target``, and beside those that they were made from.

    Where the names without their suffixes are the same in two folders, their pictures are taken for pairs. All are
    scaled and cut to squares of ``size`` pixels: by default the shorter side of the smallest generated picture.

    Raises:
        DataError: a folder is missing or empty, has fewer pictures than a figure needs, or shares pictures with another
            (unless ``force``).
    """
    folders = {"generated": generated, "target": target, **({} if source is None else {"source": source})}
    lists = {name: open_folder(folder) for name, folder in folders.items()}
    if limit is not None:
        check_limit(limit)
    side = size or common_size(lists["generated"])
    sets = {name: read_set(pictures, side, limit) for name, pictures in lists.items()}
    if not force:
        refuse_shared({str(folders[name]): pictures for name, pictures in sets.items()})
    same, notes = match_names(sets)
    return compare(
        sets["generated"].images,
        sets["target"].images,
        sets["source"].images if source is not None else None,
        names=("" if source is None else source.name, target.name),
        judges=judges,
        from_source=same.get("source", False),
        paired=same["target"],
        metrics=metrics,
        force=force,
        batch_size=batch_size,
        notes=notes,
        cache=cache,
        progress=progress,
    )
