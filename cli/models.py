"""``cyclevar models``: what there is, what is on this disk, and fetching what was published."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cyclevar.cli._common import AsJson, print_json

if TYPE_CHECKING:
    from cyclevar.core.models.catalog import Listed
    from cyclevar.core.weights.hub import Found

command = typer.Typer(rich_markup_mode=None)


@command.callback(invoke_without_command=True)
def show(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List models: families, sizes, published files and what is on this disk; `cyclevar models fetch` gets files.

    Files are looked for in the folders that CYCLEVAR_MODELS names, then in the Hugging Face cache. Listing downloads
    nothing.
    """
    if ctx.invoked_subcommand is not None:
        return

    from cyclevar.core.models.catalog import list_models
    from cyclevar.core.weights.hub import locate
    from cyclevar.core.weights.published import all_published

    models = list_models()
    files = [(family, file, locate(file)) for family, some in all_published().items() for file in some]
    if as_json:
        plain_files = [{"family": family, **asdict(file), **_plain(found)} for family, file, found in files]
        print_json({"models": [_plain_model(model) for model in models], "files": plain_files})
        return
    _print(
        ("model", "tokenizer", "backbone", "pixels", "stride", "weights", "conditions", "schedule"),
        [
            (
                model.name,
                _count(model.measures.tokenizer),
                _count(model.measures.backbone),
                "x".join(map(str, model.size)),
                str(model.measures.stride),
                _state(model),
                model.conditions,
                model.schedule,
            )
            for model in models
        ],
    )
    if files:
        typer.echo()
        _print(
            ("published file", "part of", "licence", "on this disk"),
            [
                (
                    f"{file.repository}: {file.name}",
                    " ".join(f"{family}/{preset}" for preset in file.presets) or f"{family} ({file.part})",
                    file.licence,
                    f"{found.path} ({found.where})" if found else "-",
                )
                for family, file, found in files
            ],
        )


@command.command("fetch")
def fetch_files(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="A model, such as var/d16, or a file, such as var_d16.pth.")
    ],
    folder: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Put plain files there.  [default: Hugging Face cache]")
    ] = None,
) -> None:
    """Fetch published files from the Hugging Face hub; what is on this disk already is not fetched again.

    With HF_HUB_OFFLINE=1 nothing is downloaded.
    """
    from cyclevar.core.weights.hub import fetch
    from cyclevar.core.weights.published import published_files

    for file in dict.fromkeys(file for name in names for file in published_files(name)):
        got = fetch(file, folder, report=lambda line: typer.echo(line, err=True))
        how = "fetched" if got.downloaded else "was there"
        checked = {
            "pinned": "SHA-256 as pinned",
            "hub": "SHA-256 as the hub announced it; none is pinned",
            "": "not verified: no SHA-256 is known",
        }
        typer.echo(f"{got.path}: {how} ({checked[got.verified]}; licence {file.licence})")


def _plain_model(model: Listed) -> dict[str, Any]:
    return {
        "name": model.name,
        "family": model.family,
        "preset": model.preset,
        "parameters": {"tokenizer": model.measures.tokenizer, "backbone": model.measures.backbone},
        "stride": model.measures.stride,
        "size": model.size,
        "schedule": model.schedule,
        "conditions": model.conditions,
        "shipped": str(model.shipped) if model.shipped else None,
        "ready": model.ready,
        "files": [file.name for file in model.files],
        "licences": sorted({file.licence for file in model.files}),
    }


def _plain(found: Found | None) -> dict[str, str | None]:
    return {"path": str(found.path) if found else None, "found": found.where if found else None}


def _state(model: Listed) -> str:
    if model.shipped:
        return "shipped"
    return "here" if model.ready else "to fetch" if model.files else "none"


def _count(parameters: int) -> str:
    """Three digits that count: 1.51M, 310M, 2.01B."""
    value, unit = (parameters / 1e9, "B") if parameters >= 999.5e6 else (parameters / 1e6, "M")
    return f"{value:.3g}{unit}"


def _print(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
