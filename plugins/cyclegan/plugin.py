"""Registers CycleGAN's generator and discriminator."""

from __future__ import annotations

from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.registry import Registry


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "generator",
        "cyclegan",
        "cyclevar.plugins.cyclegan.generator:build",
        summary="CycleGAN (arXiv 1703.10593): a residual network a direction, from scratch; to compare with",
        config="cyclevar.plugins.cyclegan.config:CycleganConfig",
        presets=("tiny", "resnet6", "resnet9"),
    )
    registry.add(
        "discriminator",
        "patchgan70",
        "cyclevar.plugins.cyclegan.discriminator:build",
        summary="CycleGAN's own: patches of 70 pixels, instance norm, no augmentation, from scratch, offline",
        config="cyclevar.plugins.cyclegan.config:Patchgan70Config",
    )
