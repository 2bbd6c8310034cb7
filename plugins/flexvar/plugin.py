"""Registers the FlexVAR family."""

from __future__ import annotations

from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.registry import Registry


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "backbone",
        "flexvar",
        "cyclevar.plugins.flexvar.model:build",
        summary="FlexVAR (arXiv 2502.20313): class-conditional, ground-truth prediction, any schedule, size and ratio",
        config="cyclevar.plugins.flexvar.config:FlexVarConfig",
        presets=("tiny", "d16", "d20", "d24"),
    )
