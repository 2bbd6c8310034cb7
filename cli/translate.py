"""``cyclevar translate``: pictures in, translated pictures out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cyclevar.cli._common import (
    CachePolicyOption,
    CallbackOption,
    DecoderOption,
    VisibilityOption,
    complain,
    named_parts,
)
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
from cyclevar.core.weights.shipped import DEFAULT, find_checkpoint

if TYPE_CHECKING:
    from cyclevar.core.runtime.memory import Needs


def command(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A picture, a folder of them, a .tar of them, or a folder of those.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Where to write: a file for one picture or .tar, else a folder.")
    ],
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
        typer.Option(
            "--format",
            metavar="png|jpg|webp|wds",
            help="Of the results; if not given, as the source. wds: in .tar files.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Pictures that are translated together.")] = 8,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Translate also what is there already and newer than its source.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Do the I-th of N parts, keep a manifest of it in OUT.")
    ] = None,
    per_archive: Annotated[
        int, typer.Option("--per-archive", help="Pictures in a .tar, where --format is wds.")
    ] = 1000,
    device: DeviceOption = "auto",
    int8: Annotated[
        bool, typer.Option("--int8", help="Compute linear layers in 8 bits: sooner on a CPU, not quite the same.")
    ] = False,
    mode: ModeOption = None,
    temperature: TemperatureOption = None,
    fusion: FusionOption = None,
    visibility: VisibilityOption = None,
    cache_policy: CachePolicyOption = None,
    callbacks: CallbackOption = None,
    decoder: DecoderOption = None,
    overrides: TranslationOverrides = None,
) -> None:
    """Translate a picture or a folder of pictures.

    Names and sub-folders are kept, and so is the size. What is translated already is skipped. Pictures that cannot be
    read are named at the end, and the exit code is then 1. Many pictures are shared among jobs by --shard.
    """
    folder = find_checkpoint(model, checkpoint)  # before torch is imported: a wrong name is answered at once

    from rich.console import Console
    from rich.progress import track

    from cyclevar.core.pipelines.sharding import plan_translation
    from cyclevar.core.runtime.memory import explained

    plan = plan_translation(source, out, kind=kind, per_archive=per_archive, shard=shard)
    parts = named_parts(visibility=visibility, cache_policy=cache_policy, callbacks=callbacks, decoder=decoder)
    translator = open_translator(folder, device, mode, temperature, fusion, overrides, parts).for_inference(int8=int8)
    target = translator.default_target if to is None else to
    outcomes = plan.translate(translator, folder, target, batch_size=batch, size=size, overwrite=overwrite)
    typer.echo(f"{model} translates to {target}: {describe(translator)}")
    console = Console(stderr=True)
    quiet = not console.is_terminal
    counts, problems = Counter[str](), list[str]()

    def needs() -> Needs:
        from cyclevar.core.diagnostics.memory_estimate import estimate_translation

        return estimate_translation(translator.model, batch, translator.config)

    try:
        with explained(needs):
            for outcome in track(outcomes, target, total=plan.total, console=console, transient=True, disable=quiet):
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
