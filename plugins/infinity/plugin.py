"""Registers the Infinity family."""

from __future__ import annotations

from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.registry import Registry


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "backbone",
        "infinity",
        "cyclevar.plugins.infinity.model:build",
        summary="Infinity (arXiv 2412.04431): text-conditional, bitwise SRQ, 256 to 1024 px, any aspect ratio",
        config="cyclevar.plugins.infinity.config:InfinityConfig",
        presets=("tiny", "layer12", "layer16", "layer24", "2b", "layer32", "layer40", "8b", "layer48"),
    )
