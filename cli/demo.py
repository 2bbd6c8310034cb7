"""``cyclevar demo``: the main job on the built-in pictures, as ``make demo`` runs it on a fresh machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cyclevar.cli._translator import DeviceOption, ModelOption, describe, open_translator
from cyclevar.core.weights.shipped import DEFAULT, find_translator


def command(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where to write; what an earlier demo wrote goes.")
    ] = (Path("demo")),
    steps: Annotated[int, typer.Option("--steps", min=0, help="Steps of training; 0 for none.")] = 12,
    model: ModelOption = DEFAULT,
    device: DeviceOption = "auto",
) -> None:
    """Translate built-in pictures both ways, train for a few steps, judge, and name the pictures that were written."""
    folder = find_translator(model)  # before torch is imported: a wrong name is answered at once

    from cyclevar.cli._display import display
    from cyclevar.cli.evaluate import bar, show
    from cyclevar.core.data.datasets import open_dataset
    from cyclevar.core.demo import train_briefly, translate_examples
    from cyclevar.core.evaluation.evaluate_translator import evaluate_translator
    from cyclevar.core.evaluation.networks import open_judges
    from cyclevar.core.evaluation.results import METRICS
    from cyclevar.core.pipelines.translate_files import require_folder

    require_folder(out)
    dataset = open_dataset()
    translator = open_translator(folder, device)
    typer.echo(f"1. Translating built-in pictures with {model}: {describe(translator)}.")
    pictures = translate_examples(translator, dataset, out)
    typer.echo(f"2. Training for {steps} steps, which shows that it works here; a real training takes thousands.")
    if steps:
        with display() as shown:
            pictures.append(train_briefly(out, steps, shown, device=device))
    typer.echo("3. Judging a few translations; docs/evaluation.md explains the figures.")
    judges = open_judges(METRICS).to(translator.model.device)
    with bar() as progress:
        found = evaluate_translator(
            translator, dataset, judges, split="validation", limit=97, force=True, progress=progress
        )
    show(found)
    typer.echo("The pictures (source, translation, true pair; in the folders beside them one by one):")
    for path in pictures:
        typer.echo(f"  {path}")
