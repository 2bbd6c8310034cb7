"""Registers the losses between a picture and what it should be."""

from __future__ import annotations

from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.registry import Registry

HERE = "cyclevar.core.training.losses.reconstruction"
TRUNK = "cyclevar.core.config.training:PerceptualLossConfig"


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    add = registry.add
    add("loss", "l1", f"{HERE}:AbsoluteDifference", summary="mean absolute difference")
    add("loss", "colour", f"{HERE}:ColourDifference", summary="mean and deviation of every channel")
    add("loss", "lpips_alex", f"{HERE}:build_lpips_alex", summary="LPIPS over AlexNet; needs its trunk", config=TRUNK)
    add("loss", "lpips_vgg", f"{HERE}:build_lpips_vgg", summary="LPIPS over VGG-16; needs its trunk", config=TRUNK)
    add(
        "loss",
        "efficientnet_lite0",
        f"{HERE}:build_efficientnet_lite0",
        summary="perceptual distance over EfficientNet-Lite0, offline",
    )
    add(
        "loss",
        "perceptual",
        f"{HERE}:build_perceptual",
        summary="lpips_vgg, lpips_alex or efficientnet_lite0, the first whose weights are in the torch hub cache",
    )
