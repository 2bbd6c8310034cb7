"""Registers the family and its quantizer."""

from __future__ import annotations

from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.registry import Registry


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "quantizer",
        "grid",
        "cyclevar_tinybackbone.quantizer:GridQuantizer",
        summary="every channel rounded to one of a few levels (FSQ), without a code book",
    )
    registry.add(
        "backbone",
        "tinybackbone",
        "cyclevar_tinybackbone.model:build",
        summary="the model of the tutorial: grid codes, a plain transformer, 64 px",
        config="cyclevar_tinybackbone.config:TinyConfig",
        presets=("tiny",),
    )
