"""What the commands share: options of the same meaning, and how results and errors are printed.

A command is a module with a typed function ``command``: it parses, calls one core function and prints. It imports
torch, and whatever imports torch, inside the function.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, such as train.steps=100; may be repeated."),
]
"""``--set a.b=c``, for ``core.settings.apply_overrides``."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
"""``--json``, for ``print_json``."""


def print_json(data: Any) -> None:
    """Print plain data to standard output as indented JSON."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def complain(level: str, message: object) -> None:
    """Print one line to standard error: ``cyclevar: error: ...``; line breaks in the message become spaces."""
    typer.echo(f"cyclevar: {level}: {' '.join(str(message).split())}", err=True)
