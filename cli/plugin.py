"""``cyclevar plugin``: begin a plugin, and check one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cyclevar.cli._common import AsJson, print_json

if TYPE_CHECKING:
    from cyclevar.core.contract.check import Finding

command = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Begin a plugin of your own, or check one (docs/plugins.md)."
)


@command.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it shall be called, such as my-loss.")],
    kind: Annotated[
        str,
        typer.Option("--kind", metavar="KIND", help="backbone, quantizer, discriminator, loss, metric or callback."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where its folder goes.")] = Path(),
) -> None:
    """Write a package with one part that works, its tests, and all that surrounds them."""
    from cyclevar.core.scaffold.write import new_plugin

    folder = new_plugin(name, kind, out)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        typer.echo(file)
    typer.echo(f"next: pip install -e '{folder}[dev]' && pytest {folder} && cyclevar plugin check {folder}")


@command.command()
def check(
    package: Annotated[
        str, typer.Argument(metavar="PACKAGE", help="An installed distribution, one of its plugins, or its folder.")
    ],
    as_json: AsJson = False,
) -> None:
    """Check a plugin: that it loads, costs little, declares its versions, and keeps the contract of its parts.

    The exit code is 1 when something fails.
    """
    from cyclevar.cli.main import COMMANDS
    from cyclevar.core.contract.check import check_plugin

    findings = check_plugin(package, commands=COMMANDS)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _show(findings)
    if any(finding.passed is False for finding in findings):
        raise typer.Exit(1)


def _show(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for title in ("check", "", "found", "what to do"):
        table.add_column(title)
    words = {True: "ok", False: "FAILED", None: "skipped"}
    for finding in findings:
        table.add_row(finding.check, words[finding.passed], finding.found, finding.to_do)
    Console().print(table)
