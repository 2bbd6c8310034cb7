"""``cyclevar plugins``: the installed plugins and the parts that they bring."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cyclevar.cli._common import AsJson, print_json
from cyclevar.core.extension.manager import Plugin, get_manager
from cyclevar.core.extension.registry import KINDS, Entry


def command(
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help=f"Only parts of this kind: {', '.join(KINDS)}.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the plugins, what each of them brings, and what was left out and why."""
    manager = get_manager()
    wanted = manager.registry.entries(kind)
    shown = [(plugin, [entry for entry in plugin.registered if entry in wanted]) for plugin in manager.plugins]
    if kind is not None:
        shown = [(plugin, entries) for plugin, entries in shown if entries]
    if as_json:
        print_json(
            {
                "plugins": [_plain(plugin, entries) for plugin, entries in shown],
                "failures": [asdict(failure) for failure in manager.failures],
                "disabled": [asdict(plugin) for plugin in manager.disabled],
            }
        )
        return
    for plugin, entries in shown:
        source = f"{plugin.distribution} {plugin.version}, {plugin.file or 'no file'}"
        typer.echo(f"{plugin.name} ({source}; {', '.join(plugin.hooks) or 'no hooks'})")
        for entry in entries:
            presets = f" [{', '.join(entry.presets)}]" if entry.presets else ""
            typer.echo(f"  {entry.kind:<14} {entry.name:<18} {entry.summary}{presets}")
    for what, left_out in (("switched off", manager.disabled), ("left out", manager.failures)):
        for one in left_out:
            typer.echo(f"{one.name} ({one.distribution}): {what}: {one.reason}; {one.way_out}")


def _plain(plugin: Plugin, entries: list[Entry]) -> dict[str, object]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "file": plugin.file,
        "hooks": plugin.hooks,
        "registers": [
            {"kind": entry.kind, "name": entry.name, "summary": entry.summary, "presets": entry.presets}
            for entry in entries
        ],
    }
