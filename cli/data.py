"""``cyclevar data``: looking through pictures before anything is trained on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cyclevar.cli._common import AsJson, print_json
from cyclevar.core.runtime.files import shown

if TYPE_CHECKING:
    from cyclevar.core.data.check import DataReport, PartReport

app = typer.Typer(no_args_is_help=True)

SHOWN = 10
"""Names that the text lists of each kind; ``--json`` lists all."""


@app.callback()
def data() -> None:
    """Look through pictures before anything is trained on them."""


@app.command()
def check(
    source: Annotated[
        str, typer.Argument(metavar="DIR", help="Pictures of both domains, or of the first; without it the emoji.")
    ] = "emoji",
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="Pictures of the second domain, if they lie apart.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read every picture: how many, how large, of what kind, which are bad, and which are there twice.

    Duplicates, equal or nearly so, are looked for across the domains and across training, validation and test. The exit
    code is 1 where something should be put right before a training.
    """
    from rich.console import Console
    from rich.progress import track

    from cyclevar.core.data.check import check_dataset
    from cyclevar.core.data.datasets import open_dataset

    console = Console(stderr=True)

    def progress(steps: Iterable[Any], total: int) -> Iterable[Any]:
        return track(steps, "reading", total=total, console=console, transient=True, disable=not console.is_terminal)

    report = check_dataset(open_dataset(source, other=other), progress=progress)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        typer.echo("\n".join(_lines(report)))
    if report.problems:
        raise typer.Exit(1)


def _lines(report: DataReport) -> Iterable[str]:
    yield f"{shown(report.name)} {report.fingerprint}"
    for part in report.parts:
        yield f"{part.part}/{part.domain}: {', '.join(_facts(part))}"
        bad = sorted(part.bad.items())
        yield from (f"  cannot be read: {shown(name)}: {reason}" for name, reason in bad[:SHOWN])
        if len(bad) > SHOWN:
            yield f"  cannot be read: {len(bad) - SHOWN} more, which --json lists"
        yield from (f"  {what}: {_named(names)}" for what, names in part.peculiar.items())
    for group in report.duplicates:
        if group.across != "none":
            yield f"{'equal' if group.kind == 'exact' else 'nearly equal'}: {_named(group.pictures)}"
    yield from (f"to know: {remark}" for remark in report.remarks)
    yield from (f"to put right: {problem}" for problem in report.problems)
    if not report.problems:
        yield "nothing to put right"


def _facts(part: PartReport) -> Iterable[str]:
    yield f"{part.pictures} pictures"
    if part.smallest and part.median and part.largest:
        sizes = ["x".join(map(str, size)) for size in (part.smallest, part.median, part.largest)]
        yield sizes[0] if part.smallest == part.largest else f"{sizes[0]} to {sizes[2]}, median {sizes[1]}"
    for counts in (part.kinds, part.modes):
        yield " ".join(f"{name} {count}" if len(counts) > 1 else name for name, count in counts.items())


def _named(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} ({', '.join(map(shown, names[:SHOWN]))}{more})"
