"""Registers the callback and its command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.registry import Registry

if TYPE_CHECKING:
    import typer


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "callback",
        "watermark",
        "cyclevar_watermark.callback:Watermark",
        summary="makes codes of a secret green list likelier, which `cyclevar watermark detect` finds again",
        config="cyclevar_watermark.config:WatermarkConfig",
    )


@hookimpl
def cyclevar_commands(app: typer.Typer) -> None:
    from cyclevar_watermark.command import app as watermark

    app.add_typer(watermark, name="watermark")
