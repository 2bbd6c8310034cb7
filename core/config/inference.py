"""The settings of sampling and translation."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from cyclevar.core.config.base import Settings

Share = Annotated[float, Field(ge=0, le=1)]


Parts = dict[str, dict[str, Any]]
"""Registered parts by name, with the settings of each."""


class ExtensionsConfig(Settings):
    """Parts of plugins that act while a model runs. ``cyclevar plugins`` lists what there is."""

    visibility: Parts = Field({})
    """Which tokens see which; one at most."""
    cache_policy: Parts = Field({})
    """Which tokens the key-value cache keeps; one at most."""
    decoder: Parts = Field({})
    """What makes pictures of latents; one at most."""
    callbacks: Parts = Field({})


class SamplingConfig(Settings):
    """How to sample: one number each, or one a scale.

    A family with choices of its own derives from this; its `Backbone.guided` and `Backbone.guide` are given them.
    """

    guidance: float | tuple[float, ...] = 0.0
    """Strength of classifier-free guidance, in the units of the family."""
    temperature: PositiveFloat | tuple[PositiveFloat, ...] = 1.0
    top_k: NonNegativeInt | tuple[NonNegativeInt, ...] = 0
    """Draw from the k most probable codes; 0 for all."""
    top_p: Share | tuple[Share, ...] = 0.0
    """Draw from the most probable codes that together have this probability; 0 for all."""
    extensions: ExtensionsConfig = ExtensionsConfig()

    @property
    def no_guidance(self) -> float:
        """The strength that is no guidance."""
        return 0.0


class TranslationConfig(Settings):
    """How to translate. The defaults are the readings of the paper in docs/paper.md."""

    mode: Literal["parallel", "serial"] = "parallel"
    serial: Literal["native", "literal"] = "native"
    """``native`` accumulates as the tokenizer does; ``literal`` blends at each scale's own size (Algorithm 1)."""
    start: Literal["replace", "add", "keep"] = "replace"
    """How F_1 meets the start token in parallel mode: instead of it, added to it, or not at all. Serial translation
    always begins with the start token alone."""
    fusion: float = Field(0.5, gt=0, le=1)
    """The weight ``a`` of the predicted latent against the source's (Eq. 9)."""
    temperature: float = Field(2.0, gt=0)
    """Of the softmax over codes (Eq. 10)."""
    gumbel: bool = False
    """Add Gumbel noise to the logits while training."""
    context: Literal["multi", "last"] = "multi"
    """``last``: the finest scale does not see the coarser ones (Table 4)."""
    output: Literal["multi", "last"] = "multi"
    """``last``: only the finest predicted map counts (Table 4)."""
    extensions: ExtensionsConfig = ExtensionsConfig()

    @model_validator(mode="after")
    def _applies(self) -> Self:
        if self.mode == "serial" and self.serial == "literal" and self.output == "last":
            raise ValueError("output multi: Algorithm 1 as printed adds up what every scale predicts")
        return self
