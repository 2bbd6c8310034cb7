"""``cyclevar report``: a run as one HTML page, or several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Run folders, or names of those in runs/.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The page.  [default: report.html in the run; comparison.html for several]"
        ),
    ] = None,
) -> None:
    """Write a run's report: settings, curves, samples, evaluation, machine; several runs are compared side by side.

    The page is one file that needs no server and no network. docs/report.md describes it.
    """
    from cyclevar.core.report.run_files import RunFiles
    from cyclevar.core.report.run_record import find_runs
    from cyclevar.core.training.resolve import RUNS

    found = find_runs(runs or [], RUNS)

    from cyclevar.core.report.page import write_report

    page = out or (RunFiles(found[0]).report if len(found) == 1 else Path("comparison.html"))
    write_report(found, page)
    typer.echo(f"{page} ({page.stat().st_size / 1e6:.1f} MB): open it in a browser")
