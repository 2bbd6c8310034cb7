"""``cyclevar evaluate``: how good a translator is, or pictures that somebody made, in figures."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cyclevar.cli._common import AsJson, complain, print_json
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
from cyclevar.core.errors import ConfigError
from cyclevar.core.weights.shipped import DEFAULT, find_checkpoint

if TYPE_CHECKING:
    from cyclevar.core.evaluation.feature_extraction import Progress
    from cyclevar.core.evaluation.results import Evaluation

SAVED = "evaluation.json"
"""Where a run folder keeps its evaluation."""


def command(
    model: ModelOption = DEFAULT,
    checkpoint: CheckpointOption = "last",
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
    generated: Annotated[
        Path | None,
        typer.Option("--generated", metavar="DIR", help="Judge these pictures instead of a translator; with --target."),
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--target", metavar="DIR", help="Real pictures of what they should look like.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--source", metavar="DIR", help="The pictures that they were made from.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=16, help="Side of the pictures of folders.  [default: the smallest's]")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", help="Most pictures of each domain, held out and for reference.")
    ] = 600,
    metrics: Annotated[
        str, typer.Option("--metrics", metavar="NAME,...", help="Which figures, as kid,fid; those of plugins too.")
    ] = "all",
    features: Annotated[
        str,
        typer.Option("--features", metavar="auto|inception|efficientnet_lite0", help="The net that compares sets."),
    ] = "auto",
    feature_weights: Annotated[
        Path | None, typer.Option("--feature-weights", metavar="FILE", help="Weights of Inception.")
    ] = None,
    dino_weights: Annotated[
        Path | None, typer.Option("--dino-weights", metavar="FILE", help="Weights of DINO's ViT-B/8.")
    ] = None,
    perceptual: Annotated[
        str,
        typer.Option(
            "--perceptual", metavar="auto|lpips_vgg|lpips_alex|efficientnet_lite0", help="The distance of pairs."
        ),
    ] = "auto",
    perceptual_weights: Annotated[
        Path | None, typer.Option("--perceptual-weights", metavar="FILE", help="The trunk of LPIPS.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on with too few pictures, or with pictures that stand in two sets.")
    ] = False,
    keep: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep what was seen, and use it again.")] = True,
    save: Annotated[
        bool, typer.Option("--save", help=f"Write the result to {SAVED} in the run, for its report.")
    ] = False,
    device: DeviceOption = "auto",
    mode: ModeOption = None,
    temperature: TemperatureOption = None,
    fusion: FusionOption = None,
    overrides: TranslationOverrides = None,
    as_json: AsJson = False,
) -> None:
    """Judge a translator on held-out pictures, beside no translation and the tokenizer's mere round trip.

    With --generated and --target, judge finished pictures, whoever made them. docs/evaluation.md explains the figures.
    Nothing is downloaded.
    """
    if (generated is None) != (target is None) or (source is not None and target is None):
        raise ConfigError(
            "folders of pictures are given, but not both that are needed", expected="--generated and --target"
        )
    if save and generated is not None:
        raise ConfigError("--save keeps the judgement of a run, not of folders", hint="use --json and redirect it")
    folder = find_checkpoint(model, checkpoint)  # before torch is imported: a wrong name is answered at once

    from cyclevar.core.evaluation.evaluate import choose_metrics
    from cyclevar.core.evaluation.feature_cache import FeatureCache
    from cyclevar.core.evaluation.networks import open_judges
    from cyclevar.core.evaluation.results import METRICS
    from cyclevar.core.runtime.device import choose_device

    chosen = METRICS if metrics == "all" else choose_metrics([name.strip() for name in metrics.split(",")])
    nets: dict[str, Any] = {
        "features": features,
        "feature_weights": feature_weights,
        "perceptual": perceptual,
        "perceptual_weights": perceptual_weights,
        "dino_weights": dino_weights,
        "needs_dino": metrics != "all",
    }
    options: dict[str, Any] = {"metrics": chosen, "force": force, "cache": FeatureCache() if keep else None}
    if generated is not None and target is not None:
        from cyclevar.core.evaluation.evaluate_folders import evaluate_folders

        judges = open_judges(chosen, **nets).to(choose_device(device))
        with bar() as progress:
            found = evaluate_folders(
                generated, target, source, judges=judges, size=size, limit=limit, progress=progress, **options
            )
        given: dict[str, Any] = {
            "generated": str(generated),
            "target": str(target),
            "source": str(source) if source else None,
        }
        headline = f"{generated} against {target}" + (f", made from {source}" if source else "")
    else:
        from cyclevar.core.data.datasets import open_dataset
        from cyclevar.core.evaluation.evaluate_translator import evaluate_translator, held_out

        dataset = open_dataset(data, other=data_b)
        part, _ = held_out(dataset, split)
        translator = open_translator(folder, device, mode, temperature, fusion, overrides)
        judges = open_judges(chosen, **nets).to(translator.model.device)
        with bar() as progress:
            found = evaluate_translator(
                translator, dataset, judges, split=part, limit=limit, progress=progress, **options
            )
        given = {"model": model, "data": dataset.name, "split": part, "translation": translator.config.model_dump()}
        headline = f"{model} on the {part} part of {dataset.name}: {describe(translator)}"
    result = {**given, "domains": list(found.pictures), **found.to_dict()}
    if as_json:
        print_json(result)
    else:
        typer.echo(headline)
        show(found)
    if save:
        from cyclevar.core.runtime.files import save_text

        save_text(folder / SAVED, json.dumps(result, indent=2) + "\n")


@contextlib.contextmanager
def bar() -> Iterator[Progress]:
    """A bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield progress


def show(evaluation: Evaluation) -> None:
    """Print the tables, and what a reader must not overlook."""
    from rich.console import Console

    from cyclevar.cli._tables import evaluation_tables

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 200)  # a file has room for whole lines
    for table in evaluation_tables(evaluation):
        console.print(table)
    for warning in evaluation.warnings:
        complain("warning", warning)
