"""Registers the callback."""

from __future__ import annotations

from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.registry import Registry


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "callback",
        "search",
        "cyclevar_search.search:Search",
        summary="draws several candidates of every picture and keeps the one that a verifier likes best",
        config="cyclevar_search.config:SearchConfig",
    )
