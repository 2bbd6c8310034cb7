"""Registers the VAR family."""

from __future__ import annotations

from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.registry import Registry


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "backbone",
        "var",
        "cyclevar.plugins.var.model:build",
        summary="VAR (arXiv 2404.02905): class-conditional, index-wise SRQ, 256 and 512 px",
        config="cyclevar.plugins.var.config:VarConfig",
        presets=("tiny", "d16", "d20", "d24", "d30", "d36"),
    )
