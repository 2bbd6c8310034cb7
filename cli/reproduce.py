"""``cyclevar reproduce``: a comparison of the paper, in small, beside what was published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cyclevar.cli._common import complain
from cyclevar.cli._translator import DeviceOption
from cyclevar.core.errors import ConfigError

if TYPE_CHECKING:
    from cyclevar.core.reproduce.tables import Row, Scale, Table


def command(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="table3, table4 or table5.")],
    scale: Annotated[str, typer.Option("--scale", metavar="NAME", help="How large; there is tiny.")] = "tiny",
    rows: Annotated[
        str, typer.Option("--rows", metavar="NAME,...", help="Only these rows; --dry-run names them.")
    ] = "",
    seeds: Annotated[str, typer.Option("--seeds", metavar="NUMBER,...", help="One training a row for each.")] = "0",
    steps: Annotated[int | None, typer.Option("--steps", help="Updates a row.  [default: the scale's]")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Runs and tables; the tables share it.  [default: reproduce-SCALE]"),
    ] = None,
    device: DeviceOption = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print rows, settings, paper and the time it takes, and stop.")
    ] = False,
) -> None:
    """Train every row of a table of the paper in small, judge all alike, and set the result beside the paper's.

    Stopped at any time, the same command goes on. docs/reproduce.md says what such a table can show.

    Examples: `cyclevar reproduce table3 --dry-run`; `cyclevar reproduce table3 --seeds 0,1,2`;
    `cyclevar reproduce table5 --rows baseline,gumbel --steps 300`.
    """
    from cyclevar.core.reproduce.tables import find_scale, find_table

    found, size = find_table(table), find_scale(scale)
    chosen = found.choose([name.strip() for name in rows.split(",") if name.strip()])
    numbers = _numbers(seeds)
    folder = out or Path(f"reproduce-{size.name}")
    for row in chosen:
        size.config(row, numbers[0], steps)  # what is wrong is said before torch is imported
    if dry_run:
        _show(found, size, chosen, numbers, size.steps if steps is None else steps, folder)
        return

    from cyclevar.cli._display import display
    from cyclevar.core.reproduce.run import reproduce
    from cyclevar.core.training.loop import StoppedError

    try:
        with display() as shown:
            page = reproduce(
                found,
                size,
                folder,
                rows=chosen,
                seeds=numbers,
                display=shown,
                steps=steps,
                device=device,
            )
    except StoppedError as error:
        complain("error", f"{error.problem}; the same command goes on.")
        raise typer.Exit(error.exit_code) from error
    typer.echo(f"{page} is the table; {found.name}.json and {found.name}.png lie beside it.")


def _numbers(text: str) -> list[int]:
    """The seeds, each once. Raises `ConfigError` for anything but whole numbers from 0."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--seeds is {text!r}", expected="whole numbers from 0, such as 0,1,2")
    return list(dict.fromkeys(map(int, parts)))


def _show(table: Table, scale: Scale, rows: list[Row], seeds: list[int], steps: int, out: Path) -> None:
    """What would be done."""
    typer.echo(f"{table.title}; runs and table in {out}")
    for row in rows:
        changes = ", ".join(f"translation.{name}={value}" for name, value in row.changes.items()) or "nothing"
        paper = [f"FID {row.fid:g}"] if row.fid is not None else []
        paper += [f"{row.seconds:g} s"] if row.seconds is not None else []
        typer.echo(f"  {row.name}: {row.label}; changes {changes}; paper: {', '.join(paper) or 'not in our notes'}")
    typer.echo("the paper's order:")
    for claim in table.claims:
        typer.echo(f"  {claim.better} below {claim.worse} in {claim.figure} ({claim.source})")
    trainings = len(rows) * len(seeds)
    minutes = max(1, round(scale.minutes * steps / scale.steps * trainings))
    typer.echo(f"rows times seeds: {trainings} of {steps} steps, about {minutes} min together on one busy core")
    typer.echo(scale.shows)
