"""Registers the patch discriminator."""

from __future__ import annotations

from cyclevar.core.hookspecs import hookimpl
from cyclevar.core.registry import Registry


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "discriminator",
        "patchgan",
        "cyclevar.plugins.patchgan.discriminator:build",
        summary="spectral-norm patches with DiffAugment, from scratch, offline",
        config="cyclevar.plugins.patchgan.config:PatchganConfig",
    )
