"""Train the rows of a table, judge them, and keep the table up to date.

::

    OUT/<row>-<seed>/                  an ordinary run folder; tables share the rows of equal name
    OUT/<row>-<seed>/evaluation.json   the judgement, made once for its weights
    OUT/<table>.json, .md, .png        the table, of all that has been judged so far

Everything can be interrupted: trainings go on from their last checkpoint, judgements are not made twice.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cyclevar.core.config.base import validate
from cyclevar.core.config.files import load_yaml
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.data.datasets import open_dataset
from cyclevar.core.data.fitting import fit
from cyclevar.core.data.grids import draw_sheet
from cyclevar.core.data.images import save_picture
from cyclevar.core.data.sources import UnpairedDataset
from cyclevar.core.data.transforms import from_array
from cyclevar.core.demo import translate_pictures
from cyclevar.core.errors import CheckpointError, ConfigError
from cyclevar.core.evaluation.evaluate import choose_metrics
from cyclevar.core.evaluation.evaluate_translator import evaluate_translator, held_out, identify
from cyclevar.core.evaluation.feature_cache import FeatureCache
from cyclevar.core.evaluation.networks import Judges, Net, open_judges
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.pipelines.translate_files import require_folder
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.report.page import write_report
from cyclevar.core.report.run_files import RunFiles
from cyclevar.core.reproduce.page import markdown, table_facts
from cyclevar.core.reproduce.tables import Row, Scale, Table
from cyclevar.core.runtime.device import choose_device
from cyclevar.core.runtime.files import save_text
from cyclevar.core.training.launch import train
from cyclevar.core.training.run_folder import RunFolder
from cyclevar.core.training.task import Display
from cyclevar.core.weights.shipped import SETTINGS

METRICS = choose_metrics(("kid", "kid_rt", "structure_distance", "pair_distance", "retrieval_at_1", "copy_ratio"))
"""What every row is judged by."""

RUN_BYTES = 150_000_000
"""Room that a run takes at most: two checkpoints while one is written, the translator, its report."""

TIMED, SHOWN = 24, 6
"""Pictures that are translated one by one to take the time; pictures of each direction on the sheet."""


def reproduce(
    table: Table,
    scale: Scale,
    out: Path,
    *,
    rows: Sequence[Row],
    seeds: Sequence[int],
    display: Display,
    steps: int | None = None,
    device: str = "auto",
) -> Path:
    """Train and judge ``rows`` for every seed, writing the table after each; returns the page, ``OUT/<table>.md``.

    Seed by seed, so that a table that was interrupted compares whole rows. The table shows every run of these settings
    that lies judged in ``out``, whichever call made it.

    Raises:
        ConfigError: ``out`` holds something else, or a run of other settings; too few steps.
        CheckpointError: too little room on the disk.
        StoppedError: a signal came; the same call goes on.
    """
    configs = {(row.name, seed): scale.config(row, seed, steps) for seed in seeds for row in rows}
    require_folder(out)
    if RunFiles(out).config.exists():
        raise ConfigError(f"{out} is a run itself", expected="a folder for runs and tables", hint="name one with --out")
    todo = [key for key, config in configs.items() if not is_trained(_folder(out, *key), config)]
    _demand_room(out, len(todo) * RUN_BYTES)
    dataset, judges = open_dataset(), open_judges(METRICS).to(choose_device(device))
    for (name, seed), config in configs.items():
        folder = _folder(out, name, seed)
        if (name, seed) in todo:
            display.note(f"{table.name}: training {name}, seed {seed}")
            resume = RunFiles(folder).config.exists()
            train(config, folder, resume=resume, display=display, device=device, allowed=None)
        display.note(f"{table.name}: judging {name}, seed {seed}, which takes minutes")
        judge_run(folder, dataset, judges, scale, device=device)
        write_table(table, scale, out, dataset, judges, steps=steps, device=device)
    return out / f"{table.name}.md"


def is_trained(folder: Path, config: TrainConfig) -> bool:
    """Whether the run in ``folder`` has made its last step and saved its translator.

    Raises `ConfigError` where the folder holds something else, or a run of other settings (their number of steps may
    grow).
    """
    run = RunFolder(folder)
    run.check(_as_stored(config), resume=True, free=frozenset({"loop.steps"}), allowed=None)
    saved = run.saved()
    if not saved:
        return False
    made = int(saved[-1].stem.removeprefix("step-"))
    if made > config.loop.steps:
        raise ConfigError(
            f"the run in {folder} has made {made} steps",
            expected=f"no more than {config.loop.steps}",
            hint=f"--steps {made}, or another folder with --out",
        )
    translator = folder / SETTINGS  # one that is older than the checkpoint is of fewer steps
    return (
        made == config.loop.steps
        and translator.is_file()
        and translator.stat().st_mtime_ns >= saved[-1].stat().st_mtime_ns
    )


def judge_run(
    folder: Path,
    dataset: UnpairedDataset,
    judges: Judges,
    scale: Scale,
    *,
    device: str = "auto",
) -> None:
    """Judge the translator in ``folder`` and keep that beside it, unless the same was judged already."""
    translator = Translator.load(folder, device=choose_device(device))
    files = RunFiles(folder)
    steps = load_yaml(files.config)["loop"]["steps"]
    told = {"translator": identify(translator), "steps": steps, **circumstances(dataset, judges, scale)}
    before = read_judgement(folder)
    if before is not None and told.items() <= before.items():
        return
    found = evaluate_translator(
        translator,
        dataset,
        judges,
        split=told["split"],
        limit=scale.pictures,
        metrics=METRICS,
        cache=FeatureCache(),
    )
    seconds = time_pictures(translator, dataset)
    result = {**found.to_dict(), **told, "seconds": seconds, "domains": list(found.pictures)}
    save_text(files.evaluation, json.dumps(result, indent=2) + "\n")
    write_report([folder], files.report)


def circumstances(dataset: UnpairedDataset, judges: Judges, scale: Scale) -> dict[str, Any]:
    """What judgements must share to stand in one table."""
    return {
        "data": f"{dataset.name} {dataset.fingerprint()}",
        "split": held_out(dataset)[0],
        "metrics": list(METRICS),
        "limit": scale.pictures,
        "nets": {use: vars(Net.of(net)) for use, net in judges.nets().items()},
    }


def time_pictures(translator: Translator, dataset: UnpairedDataset) -> dict[str, float]:
    """Median seconds of a translation, one picture at a time, with the range that holds the middle 80 %."""
    _, part = held_out(dataset)
    taken = []
    for index in range(TIMED + 2):
        picture = fit(part[0][index % len(part[0])], translator.model.image_size)
        images = from_array(picture.pixels)[None]
        begun = time.perf_counter()
        translator(images, translator.default_target)
        if translator.model.device.type == "cuda":
            torch.cuda.synchronize()
        if index > 1:  # the first two warm up
            taken.append(time.perf_counter() - begun)
    tenths = statistics.quantiles(taken, n=10)
    return {"value": statistics.median(taken), "low": tenths[0], "high": tenths[-1]}


def write_table(
    table: Table,
    scale: Scale,
    out: Path,
    dataset: UnpairedDataset,
    judges: Judges,
    *,
    steps: int | None = None,
    device: str = "auto",
) -> None:
    """Write the table of all that has been judged in ``out`` alike: JSON, Markdown and a sheet of pictures."""
    alike = circumstances(dataset, judges, scale)
    found = {row.name: judgements(row, scale, out, alike, steps=steps) for row in table.rows}
    facts = table_facts(table, scale, found, steps=scale.steps if steps is None else steps)
    folders = {row.name: _folder(out, row.name, min(found[row.name])) for row in table.rows if found[row.name]}
    sheet = out / f"{table.name}.png"
    _draw(folders, sheet, dataset, device)
    save_text(out / f"{table.name}.json", json.dumps(facts, indent=2) + "\n")
    save_text(out / f"{table.name}.md", markdown(facts, sheet.name))


def judgements(
    row: Row, scale: Scale, out: Path, alike: Mapping[str, Any], *, steps: int | None = None
) -> dict[int, dict[str, Any]]:
    """Seed -> judgement of every finished run of this row in ``out`` with these settings and `circumstances`."""
    found = {}
    for folder in out.glob(f"{row.name}-*"):
        number = re.fullmatch(re.escape(row.name) + r"-(\d+)", folder.name)
        judged = read_judgement(folder)
        if number is None or judged is None:
            continue
        seed = int(number[1])
        stored = validate(TrainConfig, load_yaml(RunFiles(folder).config))
        wanted = {"steps": stored.loop.steps, **alike}
        if stored == _as_stored(scale.config(row, seed, steps)) and wanted.items() <= judged.items():
            found[seed] = judged
    return dict(sorted(found.items()))


def read_judgement(folder: Path) -> dict[str, Any] | None:
    """What `judge_run` kept, or None; a damaged file counts as none and is made again."""
    try:
        found = json.loads(RunFiles(folder).evaluation.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"seconds", "steps"} <= found.keys() else None


def _draw(folders: dict[str, Path], path: Path, dataset: UnpairedDataset, device: str) -> None:
    """One column a row of the table, from its first seed: pictures of one direction, below them of the other."""
    _, part = held_out(dataset)
    translators = {name: Translator.load(folder, device=choose_device(device)) for name, folder in folders.items()}
    columns: dict[str, list[Any]] = {"source": [], **{name: [] for name in folders}, "true pair": []}
    for own, other in ((0, 1), (1, 0)):
        sources = [part[own][index] for index in range(min(SHOWN, len(part[own])))]
        columns["source"] += sources
        columns["true pair"] += [part[other][index] for index in range(len(sources))]
        for name, translator in translators.items():
            columns[name] += translate_pictures(translator, sources, dataset.domains[other])
    save_picture(draw_sheet(columns, rows=2 * SHOWN), path)


def _as_stored(config: TrainConfig) -> TrainConfig:
    """The settings as `train` writes them into the run: after the plugins have had their say."""
    folded: TrainConfig = get_manager().fold("cyclevar_configure", config)
    return folded


def _folder(out: Path, name: str, seed: int) -> Path:
    return out / f"{name}-{seed}"


def _demand_room(out: Path, needed: int) -> None:
    place = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise CheckpointError(
            f"{out} has {free / 1e9:.1f} GB of free disk space",
            expected=f"{needed / 1e9:.1f} GB for the runs that are left",
            hint="free some, choose another folder with --out, or fewer --rows or --seeds",
        )
