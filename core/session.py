"""What runs together: a model and the parts of plugins that act on it, put together before the first step.

Plugins are asked here and nowhere else; what runs inside a step are plain lists.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from cyclevar.core.attention import Visibility
from cyclevar.core.cache import CachePolicy, KeyValueCache
from cyclevar.core.callbacks import Answer, Callback, Keep, ScaleStep
from cyclevar.core.config import ExtensionsConfig, SamplingConfig, TrainConfig, TranslationConfig
from cyclevar.core.errors import ConfigError, PluginError
from cyclevar.core.guard import guarded
from cyclevar.core.interfaces import Backbone, Condition, Tokenizer
from cyclevar.core.manager import get_manager
from cyclevar.core.settings import Settings

if TYPE_CHECKING:
    from cyclevar.core.picture_model import PictureModel
    from cyclevar.core.schedule import ScaleSchedule

Task = Literal["generate", "translate", "train"]


class Decode(Protocol):
    """Latents ``[B,C,h,w]`` to pictures ``[B,3,H,W]``, as `Tokenizer.decode`."""

    def __call__(self, latent: Tensor, *, clamp: bool = True) -> Tensor: ...


class Session:
    """One generation, translator or training, with whatever acts on it. `open_session` makes it.

    ``task``; ``model`` and its ``schedule``; ``settings`` of the task; ``callbacks`` in the order in which they are
    called; ``visibility``, ``cache_policy`` and ``decode``, which plugins may replace.
    """

    def __init__(self, task: Task, model: PictureModel, settings: Settings, schedule: ScaleSchedule | None) -> None:
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
                + " and ".join(f"{_named(callback)} says {type(answer).__name__}" for callback, answer in wanted),
                expected="one callback that decides",
            )
        return wanted[0][1] if wanted else None

    def end(self, result: object = None) -> None:
        """The pass, or the training, is over."""
        for callback in self.callbacks:
            self.tell(callback, "end", result)

    def tell(self, callback: Callback, event: str, *arguments: Any) -> Any:
        """Call one event of a callback. Raises `PluginError` naming it where it fails."""
        function = getattr(callback, event)
        if torch.compiler.is_compiling():  # the compiler reads no signal handlers
            return function(*arguments)
        return guarded(f"the callback {_named(callback)} failed in {event}", function, *arguments)

    def _tap(self, callback: Callback, layer: int) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        return lambda _module, _inputs, output: self.tell(callback, "on_activation", self._step, layer, output)


def open_session(
    task: Task,
    model: PictureModel,
    settings: SamplingConfig | TranslationConfig | TrainConfig,
    *,
    schedule: ScaleSchedule | None = None,
    callbacks: Sequence[Callback] = (),
) -> Session:
    """Put together what the settings ask for, the given ``callbacks``, and what plugins add (`cyclevar_session`).

    Raises `ConfigError` for a part that is asked for twice, or one that needs a capability that the backbone lacks;
    `UnknownNameError` for one that nobody registered.
    """
    session = Session(task, model, settings, schedule)
    manager, extensions = get_manager(), _extensions(settings)
    translation = settings.translation if isinstance(settings, TrainConfig) else settings
    if isinstance(translation, TranslationConfig) and translation.context == "last" and session.schedule:
        session.use("visibility", Visibility.last_alone(len(session.schedule)), "the setting context=last")
    found = list(callbacks)
    for name, given in extensions.callbacks.items():
        found.append(_built("callback", name, given))
        found[-1].name = f"{name} of {manager.registry.get('callback', name).owner}"
    if session.backbone is not None:
        for name, given in extensions.visibility.items():
            session.use("visibility", _built("visibility", name, given, session.schedule), _owner("visibility", name))
        for name, given in extensions.cache_policy.items():
            session.use("cache_policy", _built("cache_policy", name, given), _owner("cache_policy", name))
        for name, given in extensions.decoder.items():
            session.use("decoder", _built("decoder", name, given, model), _owner("decoder", name))
    elif extensions.visibility or extensions.cache_policy or extensions.decoder:
        raise ConfigError(f"{model.family} has no tokens", expected="no visibility, cache policy or decoder")
    for plugin, added in manager.gather("cyclevar_session", session=session):
        for callback in added:
            callback.name = callback.name or f"{type(callback).__name__} of plugin {plugin}"
            found.append(callback)
    session.callbacks = tuple(found)
    _require_capabilities(session)
    if session.cache_policy and isinstance(translation, TranslationConfig) and translation.mode == "parallel":
        raise ConfigError(
            f"{session._owners['cache_policy']} is asked for, and a parallel translation has no cache",
            expected="--mode serial, or generating",
        )
    return session


def _extensions(settings: SamplingConfig | TranslationConfig | TrainConfig) -> ExtensionsConfig:
    if not isinstance(settings, TrainConfig):
        return settings.extensions
    own = settings.translation.extensions
    return own.model_copy(update={"callbacks": own.callbacks | settings.callbacks})


def _built(kind: str, name: str, settings: dict[str, Any], *arguments: Any) -> Any:
    return get_manager().build(kind, name, settings, *arguments)


def _owner(kind: str, name: str) -> str:
    return f"{name} of {get_manager().registry.get(kind, name).owner}"


def _require_capabilities(session: Session) -> None:
    there = session.backbone.capabilities if session.backbone else frozenset()
    needed = [(_named(callback), need) for callback in session.callbacks for need in callback.needs]
    needed += [(_named(callback), "taps") for callback in session.callbacks if callback.taps]
    if session.cache_policy:
        needed.append((session._owners["cache_policy"], "cache_policy"))
    for who, need in needed:
        if need not in there:
            raise ConfigError(
                f"{who} needs the capability {need!r}, which the backbone of {session.model.family} lacks",
                expected=f"a backbone that has it (this one has {', '.join(sorted(there)) or 'none'})",
            )


def _named(callback: Callback) -> str:
    return callback.name or type(callback).__name__


def _block(callback: Callback, backbone: Backbone, layer: int) -> nn.Module:
    blocks = list(backbone.get_submodule("blocks").children())
    if not -len(blocks) <= layer < len(blocks):
        raise ConfigError(f"{_named(callback)} taps block {layer}", expected=f"one of {len(blocks)} blocks")
    return blocks[layer]
