"""Settings of the quantizers (torch-free)."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from cyclevar.core.config.base import Settings


class IndexConfig(Settings):
    """A learned code book."""

    size: PositiveInt = 4096
    metric: Literal["euclidean", "cosine"] = "euclidean"


class BitwiseConfig(Settings):
    """A bit a channel."""

    kind: Literal["bsq", "lfq"] = "bsq"
