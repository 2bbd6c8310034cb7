"""``cyclevar generate``: pictures from nothing but a class, a domain or a prompt."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cyclevar.cli._common import parts_in
from cyclevar.cli._model import Choice, chooses_model, default_targets, pair, pixels
from cyclevar.core.errors import ConfigError

if TYPE_CHECKING:
    from cyclevar.core.models.model import Model
    from cyclevar.core.runtime.memory import Needs
    from cyclevar.core.schedule import ScaleSchedule


@chooses_model
def command(
    choice: Choice,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            metavar="TEXT",
            help="A class id, a domain's name or a prompt; repeatable.  [default: every domain that has a name]",
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", help="Pictures of each condition.")] = 8,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule", metavar="TEXT", help="Sizes of the scales, as 1-2-3-5-8, or a name that the family knows."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="HxW", help="Of the pictures in pixels, where the family allows it.")
    ] = None,
    ratio: Annotated[
        str | None,
        typer.Option("--ratio", metavar="W:H", help="Of the sides, as 16:9, where the family allows it."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Pictures that are drawn together; changes none of them.")] = 8,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write.")] = Path("generated"),
    grid: Annotated[bool, typer.Option("--grid/--no-grid", help="Write all of them on one sheet too.")] = True,
    show_settings: Annotated[
        bool, typer.Option("--show-settings", help="Print how the model would sample, as YAML, and stop.")
    ] = False,
) -> None:
    """Draw new pictures; without options, emoji of both kinds by the tiny model that ships.

    NUMBERS are one number, or one a scale, as in --temperature 1,1,0.9,0.8. What is not said is as the model has it.
    """
    from rich.console import Console
    from rich.progress import track

    from cyclevar.core.next_scale.generation import sampling_config
    from cyclevar.core.pipelines.generate_files import generate_files
    from cyclevar.core.runtime.memory import explained

    opened = choice.open()
    sampling = sampling_config(opened, **choice.settings)
    if show_settings:
        from cyclevar.core.config.files import dump_yaml

        typer.echo(dump_yaml(sampling.model_dump(mode="json")), nl=False)
        return
    chosen = choose_schedule(opened, schedule, size, ratio)
    targets = condition or default_targets(opened)
    files = generate_files(
        opened,
        targets,
        out,
        count=count,
        batch_size=batch,
        seed=choice.seed,
        grid=grid,
        schedule=chosen,
        **choice.settings,
    )
    height, width = (side * opened.tokenizer.stride for side in chosen.full)
    settings = sampling.model_dump(mode="json")
    parts = parts_in(settings.pop("extensions"))
    shown = ", ".join([*(f"{name} {value}" for name, value in settings.items()), *parts])
    typer.echo(f"{opened.family}, {height}x{width} pixels, {len(chosen)} scales, {shown}, on {opened.device}")
    console = Console(stderr=True)
    total, begun = count * len(targets) + grid, time.monotonic()
    quiet = not console.is_terminal

    def needs() -> Needs:
        from cyclevar.core.diagnostics.memory_estimate import estimate_drawing

        return estimate_drawing(opened, batch, chosen)

    with explained(needs):
        written = list(track(files, "drawing", total=total, console=console, transient=True, disable=quiet))
    pictures = len(written) - grid
    typer.echo(f"{pictures} pictures in {time.monotonic() - begun:.1f} s: {out}")
    if grid:
        typer.echo(f"all of them: {written[-1]}")


def choose_schedule(model: Model, schedule: str | None, size: str | None, ratio: str | None) -> ScaleSchedule:
    """The schedule that the options ask for; the model's own where they ask for none."""
    from cyclevar.core.next_scale.generation import schedule_for, schedule_of_ratio

    options = (("--schedule", schedule), ("--size", size), ("--ratio", ratio))
    given = [name for name, value in options if value is not None]
    if "--ratio" in given and len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} are given", expected="one of them")
    if schedule is not None:
        return _parse_schedule(model, schedule, size)
    if size is not None:
        return schedule_for(model, pixels("--size", size))
    if ratio is not None:
        width, height = pair("--ratio", ratio, ":")
        return schedule_of_ratio(model, width / height)
    return model.schedule


def _parse_schedule(model: Model, text: str, size: str | None) -> ScaleSchedule:
    """The schedule of the option. One that is spelt out must end where pictures of ``size``, or the model's own, do."""
    chosen, stride = model.config.parse_schedule(text), model.tokenizer.stride
    named = text in model.config.schedules() and size is None
    height, width = pixels("--size", size) if size is not None else (side * stride for side in model.schedule.full)
    made = [side * stride for side in chosen.full]
    if not named and made != [height, width]:
        possible = model.config.nearest_schedule(chosen.full).full == chosen.full
        raise ConfigError(
            f"the schedule {text} makes pictures of {made[0]}x{made[1]} pixels",
            expected=f"one that ends at {height / stride:g}x{width / stride:g} cells, for {height}x{width} pixels",
            hint=f"with --size {made[0]}x{made[1]} beside it they may be smaller or larger" if possible else "",
        )
    return chosen
