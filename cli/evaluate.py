"""``cyclevar evaluate``: how good a translator is, in figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def command(
    model: ModelOption = DEFAULT,
    data: Annotated[
        str,
        typer.Option(
            "--data", metavar="DIR", help="A folder of pictures as docs/data.md says, or emoji: the built-in."
        ),
    ] = "emoji",
    other: Annotated[
        Path | None,
        typer.Option("--other", metavar="DIR", help="The folder of the second domain, where they lie apart."),
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

    from rich.console import Console
    from rich.progress import Progress

    from cyclevar.core.data.datasets import open_dataset
    from cyclevar.core.evaluation.features import load_feature_net
    from cyclevar.core.evaluation.translators import evaluate_translator, held_out

    dataset = open_dataset(data, other=other)
    part, _ = held_out(dataset, split)
    translator = open_translator(folder, device, mode, temperature, fusion, overrides)
    net = load_feature_net().to(translator.model.device)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        found = evaluate_translator(translator, dataset, net, split=part, limit=limit, progress=progress)
    if as_json:
        settings = {"model": model, "data": dataset.name, "split": part, "translation": translator.config.model_dump()}
        print_json({**settings, "domains": list(found.pictures), **found.to_dict()})
        return
    tables = Console()
    if not tables.is_terminal:
        tables.width = max(tables.width, 120)  # a file has room for whole words
    for table in found.tables():
        tables.print(table)
    typer.echo(f"{model} on {dataset.name}, {part} part: {describe(translator)}")
    for warning in found.warnings:
        complain("warning", warning)
