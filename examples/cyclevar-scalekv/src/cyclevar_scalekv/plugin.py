"""Registers the cache policy and its command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.registry import Registry

if TYPE_CHECKING:
    import typer


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "cache_policy",
        "scalekv",
        "cyclevar_scalekv.policy:ScaleKvPolicy",
        summary="keeps a share of every layer's cache, by what its queries look at (ScaleKV, arXiv 2505.19602)",
        config="cyclevar_scalekv.config:ScaleKvConfig",
    )


@hookimpl
def cyclevar_commands(app: typer.Typer) -> None:
    from cyclevar_scalekv.command import app as scalekv

    app.add_typer(scalekv, name="scalekv")
