"""Registers the quantizers."""

from __future__ import annotations

from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.registry import Registry


@hookimpl
def cyclevar_register(registry: Registry) -> None:
    registry.add(
        "quantizer",
        "index",
        "cyclevar.quantizers.index:build",
        summary="a codebook, Euclidean or cosine, relaxed by a softmax over its codes",
        config="cyclevar.quantizers.config:IndexConfig",
    )
    registry.add(
        "quantizer",
        "bitwise",
        "cyclevar.quantizers.bitwise:build",
        summary="one bit a channel (BSQ, LFQ), relaxed by a softmax over the two values of every bit",
        config="cyclevar.quantizers.config:BitwiseConfig",
    )
