"""What may act while a model runs: callbacks, and the answers that they give at the end of a scale."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor, nn

from cyclevar.core.attention.cache import CachePolicy, KeyValueCache
from cyclevar.core.attention.plan import Visibility
from cyclevar.core.config.base import Settings
from cyclevar.core.errors import ConfigError, CyclevarError, PluginError
from cyclevar.core.interfaces.backbone import Backbone, Condition
from cyclevar.core.interfaces.tokenizer import Tokenizer

if TYPE_CHECKING:
    from cyclevar.core.schedule import ScaleSchedule

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from cyclevar.core.interfaces.backbone import Condition
    from cyclevar.core.interfaces.tokenizer import ScaleState


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


Task = Literal["generate", "translate", "train"]


class Decode(Protocol):
    """Latents ``[B,C,h,w]`` to pictures ``[B,3,H,W]``, as `Tokenizer.decode`."""

    def __call__(self, latent: Tensor, *, clamp: bool = True) -> Tensor: ...


class Session:
    """One generation, translator or training, with whatever acts on it. `open_session` makes it.

    ``task``; ``model`` (a `PictureModel`) and its ``schedule``; ``settings`` of the task; ``callbacks`` in the
    order in which they are called; ``visibility``, ``cache_policy`` and ``decode``, which plugins may replace.
    """

    def __init__(self, task: Task, model: nn.Module, settings: Settings, schedule: ScaleSchedule | None) -> None:
        self.task, self.model, self.settings = task, model, settings
        self.callbacks: tuple[Callback, ...] = ()
        self.cache_policy: CachePolicy | None = None
        backbone, tokenizer = getattr(model, "backbone", None), getattr(model, "tokenizer", None)
        self.backbone = backbone if isinstance(backbone, Backbone) else None
        self.schedule: ScaleSchedule | None = schedule or getattr(model, "schedule", None)
        self._visibility = Visibility.causal(len(self.schedule)) if self.schedule else None
        self._tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else None
        self._decode: Decode | None = None
        self._owners: dict[str, str] = {}
        self._step: ScaleStep | None = None

    @property
    def visibility(self) -> Visibility:
        """Which scale sees which."""
        assert self._visibility is not None, "a model without tokens has no scales"
        return self._visibility

    @property
    def decode(self) -> Decode:
        """What makes pictures of latents."""
        assert self._tokenizer is not None, "a model without tokens has no decoder"
        return self._decode or self._tokenizer.decode

    def use(self, kind: Literal["visibility", "cache_policy", "decoder"], part: Any, owner: str) -> None:
        """Put ``part`` in the place of the default. Raises `ConfigError` naming both where there is another already."""
        if kind in self._owners:
            raise ConfigError(
                f"two parts of the kind {kind} are asked for: {self._owners[kind]} and {owner}", expected="one of them"
            )
        self._owners[kind] = owner
        if kind == "visibility":
            self._visibility = part
        elif kind == "cache_policy":
            self.cache_policy = part
        else:
            self._decode = part

    def new_cache(self, condition: Condition) -> KeyValueCache:
        """An empty cache for one pass over the scales."""
        assert self.backbone is not None
        assert self.schedule is not None
        prefix = 0 if condition.prefix is None else condition.prefix.shape[1]
        return KeyValueCache(self.backbone.depth, self.schedule, self.visibility, self.cache_policy, prefix)

    def told(self, condition: Condition) -> Condition:
        """The condition, gone through all callbacks. Raises `ConfigError` for one that the backbone does not read."""
        for callback in self.callbacks:
            condition = self.tell(callback, "on_condition", self, condition)
        capabilities = self.backbone.capabilities if self.backbone else frozenset()
        if condition.prefix is not None and "prefix" not in capabilities:
            raise ConfigError(
                f"a prefix is given, and the backbone of {self.model.family} lacks the capability 'prefix'",
                expected="a condition without one",
            )
        return condition

    @contextlib.contextmanager
    def running(self, backbone: Backbone) -> Iterator[None]:
        """Around one pass of ``backbone``: taps its blocks; tells the callbacks that it begins, unless it trains."""
        hooks = [
            _block(callback, backbone, layer).register_forward_hook(self._tap(callback, layer))
            for callback in self.callbacks
            for layer in callback.taps
        ]
        try:
            if self.task != "train":
                self.begin()
            yield
        finally:
            self._step = None
            for hook in hooks:
                hook.remove()

    def begin(self) -> None:
        """The pass, or the training, begins."""
        for callback in self.callbacks:
            self.tell(callback, "begin", self)

    def start(self, step: ScaleStep) -> None:
        """A scale begins."""
        self._step = step
        for callback in self.callbacks:
            self.tell(callback, "on_scale_start", step)

    def passed(self, event: Literal["on_features", "on_logits", "on_codes"], step: ScaleStep, value: Any) -> Any:
        """``value``, gone through that event of every callback."""
        for callback in self.callbacks:
            value = self.tell(callback, event, step, value)
        return value

    def answer(self, step: ScaleStep) -> Answer:
        """What to do after a scale. Raises `PluginError` where two callbacks want different things."""
        answers = [(callback, self.tell(callback, "on_scale_end", step)) for callback in self.callbacks]
        wanted = [(callback, answer) for callback, answer in answers if not isinstance(answer, Keep | None)]
        if len(wanted) > 1:
            raise PluginError(
                f"after scale {step.scale}, "
                + " and ".join(
                    f"{callback_name(callback)} says {type(answer).__name__}" for callback, answer in wanted
                ),
                expected="one callback that decides",
            )
        return wanted[0][1] if wanted else None

    def end(self, result: object = None) -> None:
        """The pass, or the training, is over."""
        for callback in self.callbacks:
            self.tell(callback, "end", result)

    def tell(self, callback: Callback, event: str, *arguments: Any) -> Any:
        """Call one event of a callback. Raises `PluginError` naming it where it fails."""
        try:
            return getattr(callback, event)(*arguments)
        except CyclevarError:
            raise
        except Exception as error:
            raise PluginError(
                f"the callback {callback_name(callback)} failed in {event}: {type(error).__name__}: {error}",
                hint="repair it, or leave it out",
            ) from error

    def _tap(self, callback: Callback, layer: int) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        return lambda _module, _inputs, output: self.tell(callback, "on_activation", self._step, layer, output)


def callback_name(callback: Callback) -> str:
    """Return what messages call a callback."""
    return callback.name or type(callback).__name__


def _block(callback: Callback, backbone: Backbone, layer: int) -> nn.Module:
    blocks = list(backbone.get_submodule("blocks").children())
    if not -len(blocks) <= layer < len(blocks):
        raise ConfigError(f"{callback_name(callback)} taps block {layer}", expected=f"one of {len(blocks)} blocks")
    return blocks[layer]
