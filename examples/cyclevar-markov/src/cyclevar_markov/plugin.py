"""Registers the visibility."""

from __future__ import annotations

from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.registry import Registry


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "visibility",
        "markov",
        "cyclevar_markov.visibility:build",
        summary="the own scale alone or the next coarser one too, in windows of k x k (HMAR, MVAR)",
        config="cyclevar_markov.config:MarkovConfig",
    )
