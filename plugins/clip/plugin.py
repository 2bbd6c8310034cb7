"""Registers the CLIP discriminator."""

from __future__ import annotations

from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.registry import Registry


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "discriminator",
        "clip",
        "cyclevar.plugins.clip.discriminator:build",
        summary="heads on a frozen CLIP image tower, as in the paper; needs its weights",
        config="cyclevar.plugins.clip.config:ClipConfig",
    )
