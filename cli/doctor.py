"""``cyclevar doctor``: what this machine and this installation can do, and what to do about what is wrong."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from cyclevar.cli._common import AsJson, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from cyclevar.core.diagnostics.doctor import Finding

STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def command(as_json: AsJson = False) -> None:
    """Examine this machine and this installation.

    Device, torch, attention kernels, memory, disk, weights, plugins, data loading: what was found, and what to do. The
    exit code is 1 if there is a problem with which cyclevar cannot be used.
    """
    from cyclevar.core.diagnostics.doctor import examine

    findings = examine()
    usable = all(finding.state != "problem" for finding in findings)
    if as_json:
        print_json({"usable": usable, "findings": [asdict(finding) for finding in findings]})
    else:
        from rich.console import Console

        Console().print(_table(findings))
        typer.echo("cyclevar can be used" if usable else "cyclevar cannot be used before the problems are solved")
    if not usable:
        raise typer.Exit(1)


def _table(findings: list[Finding]) -> Table:
    """Group, name, state, what was found, and below it what to do. Neighbours of which the same is said are one row."""
    from itertools import groupby

    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, padding=(0, 1), pad_edge=False)
    for group, members in groupby(findings, key=lambda finding: finding.group):
        title = group
        for (state, found, advice), same in groupby(members, key=lambda one: (one.state, one.found, one.advice)):
            text = Text(found)
            if advice:
                text.append(f"\n-> {advice}", style="bold")
            names = Text("\n".join(finding.name for finding in same))
            table.add_row(Text(title, style="bold"), names, Text(state, style=STYLES[state]), text)
            title = ""
        table.add_section()
    return table
