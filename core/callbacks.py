"""What may act while a model runs: callbacks, and the answers that they give at the end of a scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from cyclevar.core.interfaces import Condition, ScaleState
    from cyclevar.core.session import Session


@dataclass(frozen=True)
class ScaleStep:
    """Where a run is.

    ``scale`` of the session's schedule; ``state``: what was built before it, at `Callback.on_scale_end` with it, and in
    a parallel translation None; ``condition``: a row a picture; ``samples``: the pictures' numbers; ``attempt``: how
    often the scale was begun before; ``codes`` ``[B,h,w]`` (bits ``[B,h,w,d]``) and ``logits`` ``[B,l,logit_dim]`` once
    they are there. A translation has no codes.
    """

    session: Session
    scale: int
    state: ScaleState | None
    condition: Condition
    samples: Sequence[int] = ()
    attempt: int = 0
    logits: Tensor | None = None
    codes: Tensor | None = None


@dataclass(frozen=True)
class Keep:
    """Go on; None says the same."""


@dataclass(frozen=True)
class Select:
    """Go on with these rows of the batch, in this order; one may be there twice.

    Rows that are there twice keep their picture's number, so they draw the same from here on unless ``samples`` gives
    them numbers of their own.
    """

    rows: Sequence[int]
    samples: Sequence[int] | None = None


@dataclass(frozen=True)
class Rewind:
    """Draw again from ``scale`` on, this one or a coarser one, with other noise."""

    scale: int


@dataclass(frozen=True)
class Stop:
    """Draw no finer scale: the picture is what was built so far."""


Answer = Keep | Select | Rewind | Stop | None


class Callback:
    """Base of everything that acts at run time; a subclass overrides what it needs.

    While pictures are made: ``begin``, ``on_condition``, then for every scale ``on_scale_start``, ``on_features``,
    ``on_logits``, ``on_codes``, ``on_scale_end``, then ``end``. A translation has no codes; a parallel one calls
    ``on_features`` for all scales before its pass and ``on_logits`` for all after it. Several callbacks are called in
    order, each with what the one before returned.
    """

    needs: tuple[str, ...] = ()
    """Capabilities that the backbone must have (`Backbone.capabilities`)."""
    taps: tuple[int, ...] = ()
    """Blocks of the backbone whose output `on_activation` is given; negative ones count from the last."""
    name: str = ""
    """How messages call it: set by whoever builds it from the registry."""

    def begin(self, session: Session) -> None:
        """Before the first scale, or the first update of a training."""

    def on_condition(self, session: Session, condition: Condition) -> Condition:
        """What the backbone is told, before anything is computed of it; a pass of a training too.

        Added tokens belong into its ``null`` as well, where it has one: `Condition.prefix` (capability ``prefix``),
        `Condition.tokens` (``cross_attention``).
        """
        return condition

    def on_scale_start(self, step: ScaleStep) -> None:
        """Before a scale is computed."""

    def on_features(self, step: ScaleStep, feature: Tensor | None) -> Tensor | None:
        """The map ``[B,C,h,w]`` that the backbone reads at this scale; None is the start token."""
        return feature

    def on_logits(self, step: ScaleStep, logits: Tensor) -> Tensor:
        """Logits ``[B,l,logit_dim]`` of the scale, float32, after guidance and temperature."""
        return logits

    def on_codes(self, step: ScaleStep, codes: Tensor) -> Tensor:
        """Codes ``[B,h,w]``, or bits ``[B,h,w,d]``, that were drawn: others may be forced in their place."""
        return codes

    def on_scale_end(self, step: ScaleStep) -> Answer:
        """What to do after a scale; a serial translation can only keep on."""

    def on_activation(self, step: ScaleStep | None, layer: int, x: Tensor) -> Tensor | None:
        """What block ``layer`` put out, ``[B,l,width]``; what is returned goes on in its place, unless it is None.

        With guidance the second half of the batch has the null condition. ``step`` is None in a parallel pass.
        """

    def on_update(self, step: int, figures: Mapping[str, float]) -> None:
        """After update ``step`` of a training, counted from 1."""

    def on_validation(self, step: int, figures: Mapping[str, float]) -> None:
        """After a validation of a training."""

    def end(self, result: Any) -> None:
        """Behind the last scale, with the `Generation` or the `Translation`; behind a training, with None."""


class ForcedCodes(Callback):
    """Puts known codes in the place of drawn ones: ``choose`` is given the step and what was drawn."""

    def __init__(self, choose: Callable[[ScaleStep, Tensor], Tensor]) -> None:
        self._choose = choose

    def on_codes(self, step: ScaleStep, codes: Tensor) -> Tensor:
        return self._choose(step, codes)
