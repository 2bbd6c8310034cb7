"""``cyclevar translate``: pictures in, translated pictures out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from cyclevar.cli._common import complain
from cyclevar.cli._translator import (
    CheckpointOption,
    DeviceOption,
    FusionOption,
    ModelOption,
    ModeOption,
    TemperatureOption,
    TranslationOverrides,
    describe,
    open_translator,
)
from cyclevar.core.shipped import DEFAULT, find_checkpoint


def command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A picture, or a folder of them, nested or not.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write: a file for one picture, else a folder.")],
    model: ModelOption = DEFAULT,
    checkpoint: CheckpointOption = "last",
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DOMAIN", help="What to translate to; of two domains, the second one if not given."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Longer side of the results in pixels; if not given, as the source.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--format", metavar="png|jpg|webp", help="Of the results; if not given, as the source."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Pictures that are translated together.")] = 8,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Translate also what is there already and newer than its source.")
    ] = False,
    device: DeviceOption = "auto",
    int8: Annotated[
        bool, typer.Option("--int8", help="Compute linear layers in 8 bits: sooner on a CPU, not quite the same.")
    ] = False,
    mode: ModeOption = None,
    temperature: TemperatureOption = None,
    fusion: FusionOption = None,
    overrides: TranslationOverrides = None,
) -> None:
    """Translate a picture or a folder of pictures.

    Names and sub-folders are kept, and so is the size. What is translated already is skipped. Pictures that cannot be
    read are named at the end, and the exit code is then 1.
    """
    folder = find_checkpoint(model, checkpoint)  # before torch is imported: a wrong name is answered at once

    from rich.console import Console
    from rich.progress import track

    from cyclevar.core.picture_files import plan_jobs, translate_files

    jobs = plan_jobs(source, out, kind=kind)
    translator = open_translator(folder, device, mode, temperature, fusion, overrides).for_inference(int8=int8)
    target = translator.default_target if to is None else to
    outcomes = translate_files(translator, jobs, target, batch_size=batch, size=size, overwrite=overwrite)
    typer.echo(f"{model} translates to {target}: {describe(translator)}")
    console = Console(stderr=True)
    quiet = not console.is_terminal
    counts, problems = Counter[str](), list[str]()
    try:
        for outcome in track(outcomes, target, total=len(jobs), console=console, transient=True, disable=quiet):
            counts[outcome.status] += 1
            if outcome.problem:
                problems.append(outcome.problem)
        statuses = ("translated", "already there", "failed")
        typer.echo(", ".join(f"{counts[status]} {status}" for status in statuses if counts[status]) + f": {out}")
    finally:
        for problem in problems:
            complain("error", problem)
    if problems:
        raise typer.Exit(1)
