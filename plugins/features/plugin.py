"""Registers the frozen-feature discriminator."""

from __future__ import annotations

from cyclevar.core.hookspecs import hookimpl
from cyclevar.core.registry import Registry


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "discriminator",
        "features",
        "cyclevar.plugins.features.discriminator:build",
        summary="heads on frozen features: EfficientNet-Lite0 (offline) or any timm network",
        config="cyclevar.plugins.features.config:FeaturesConfig",
    )
