"""``cyclevar evaluate``: how good a translator is, in figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cyclevar.cli._common import AsJson, complain, print_json
from cyclevar.cli._translator import (
    DeviceOption,
    FusionOption,
    ModelOption,
    ModeOption,
    TemperatureOption,
    TranslationOverrides,
    describe,
    open_translator,
)
from cyclevar.core.shipped import DEFAULT, find_translator

if TYPE_CHECKING:
    from cyclevar.core.data.datasets import UnpairedDataset
    from cyclevar.core.evaluation.evaluate import Evaluation
    from cyclevar.core.translator import Translator


def command(
    model: ModelOption = DEFAULT,
    data: Annotated[
        str,
        typer.Option("--data", metavar="DIR", help="Pictures of both domains (docs/data.md), or of the first."),
    ] = "emoji",
    data_b: Annotated[
        Path | None,
        typer.Option("--data-b", metavar="DIR", help="Pictures of the second domain, if they lie apart."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="test|validation", help="Which held-out part; test, where there is one."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", help="Most pictures of each domain, held out and for reference.")
    ] = 600,
    device: DeviceOption = "auto",
    mode: ModeOption = None,
    temperature: TemperatureOption = None,
    fusion: FusionOption = None,
    overrides: TranslationOverrides = None,
    as_json: AsJson = False,
) -> None:
    """Judge a translator on held-out pictures, beside no translation and the tokenizer's mere round trip.

    docs/evaluation.md explains the figures. Nothing is downloaded.
    """
    folder = find_translator(model)  # before torch is imported: a wrong name is answered at once

    from cyclevar.core.data.datasets import open_dataset
    from cyclevar.core.evaluation.translators import held_out

    dataset = open_dataset(data, other=data_b)
    part, _ = held_out(dataset, split)
    translator = open_translator(folder, device, mode, temperature, fusion, overrides)
    found = judge(translator, dataset, part, limit)
    if as_json:
        settings = {"model": model, "data": dataset.name, "split": part, "translation": translator.config.model_dump()}
        print_json({**settings, "domains": list(found.pictures), **found.to_dict()})
    else:
        typer.echo(f"{model} on the {part} part of {dataset.name}: {describe(translator)}")
        show(found)


def judge(translator: Translator, dataset: UnpairedDataset, split: str, limit: int) -> Evaluation:
    """The evaluation, with a bar on a terminal meanwhile."""
    from rich.console import Console
    from rich.progress import Progress

    from cyclevar.core.evaluation.translators import evaluate_translator
    from cyclevar.core.features import load_feature_net

    net = load_feature_net().to(translator.model.device)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        return evaluate_translator(translator, dataset, net, split=split, limit=limit, progress=progress)


def show(evaluation: Evaluation) -> None:
    """Print the tables, and what a reader must not overlook."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 140)  # a file has room for whole lines
    for table in evaluation.tables():
        console.print(table)
    for warning in evaluation.warnings:
        complain("warning", warning)
