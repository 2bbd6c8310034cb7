"""Settings of the policy; torch-free."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from cyclevar.core.config.base import Settings


class ScaleKvConfig(Settings):
    """How much of the cache stays."""

    share: float = Field(0.1, gt=0, le=1)
    """Of the tokens before the last scale, the same in every layer; ``budgets`` has its own."""
    budgets: str | None = None
    """A file of ``cyclevar scalekv calibrate``, which says for every layer and scale how many tokens stay."""
    window: PositiveInt = 16
    """Tokens of a scale, spread over its map, whose queries tell what matters; they stay too."""
