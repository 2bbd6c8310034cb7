"""What the commands share: options of the same meaning, and how results and errors are printed.

A command is a module with a typed function ``command``: it parses, calls one core function and prints. It imports
torch, and whatever imports torch, inside the function.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, such as train.steps=100; may be repeated."),
]
"""``--set a.b=c``, for ``core.config.files.apply_overrides``."""

VisibilityOption = Annotated[
    list[str] | None, typer.Option("--visibility", metavar="NAME", help="A plugin's: which tokens see which.")
]
CachePolicyOption = Annotated[
    list[str] | None,
    typer.Option("--cache-policy", metavar="NAME", help="A plugin's: which tokens the key-value cache keeps."),
]
DecoderOption = Annotated[
    list[str] | None, typer.Option("--decoder", metavar="NAME", help="A plugin's: what makes pictures of latents.")
]
CallbackOption = Annotated[
    list[str] | None,
    typer.Option("--callback", metavar="NAME", help="A plugin's: what acts on every scale; repeatable."),
]


def named_parts(**names: list[str] | None) -> dict[str, Any]:
    """The setting ``extensions`` that asks for parts of plugins by name: kind -> names; nothing where none is named."""
    asked: dict[str, Any] = {kind: {name: {} for name in some} for kind, some in names.items() if some}
    return {"extensions": asked} if asked else {}


def parts_in(extensions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The parts of plugins that settings ask for, a few words each."""
    return [f"{kind.replace('_', ' ').removesuffix('s')} {name}" for kind, some in extensions.items() for name in some]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
"""``--json``, for ``print_json``."""


def print_json(data: Any) -> None:
    """Print plain data to standard output as indented JSON."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def complain(level: str, message: object) -> None:
    """Print one line to standard error: ``cyclevar: error: ...``; line breaks in the message become spaces."""
    typer.echo(f"cyclevar: {level}: {' '.join(str(message).split())}", err=True)
