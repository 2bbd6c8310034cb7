"""Registers the patch discriminator."""

from __future__ import annotations

from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.registry import Registry


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "discriminator",
        "patchgan",
        "cyclevar.plugins.patchgan.discriminator:build",
        summary="spectral-norm patches with DiffAugment, from scratch, offline",
        config="cyclevar.plugins.patchgan.config:PatchganConfig",
    )
