"""Registers the frozen-feature discriminator."""

from __future__ import annotations

from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.registry import Registry


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "discriminator",
        "features",
        "cyclevar.plugins.features.discriminator:build",
        summary="heads on frozen features: EfficientNet-Lite0 (offline) or any timm network",
        config="cyclevar.plugins.features.config:FeaturesConfig",
    )
