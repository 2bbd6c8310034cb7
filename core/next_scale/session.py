"""What runs together: a model and the parts of plugins that act on it, put together before the first step.

Plugins are asked here and nowhere else; what runs inside a step are plain lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cyclevar.core.attention.plan import Visibility
from cyclevar.core.config.inference import ExtensionsConfig, SamplingConfig, TranslationConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.interfaces.callbacks import Callback, Session, Task, callback_name

if TYPE_CHECKING:
    from cyclevar.core.interfaces.model import PictureModel
    from cyclevar.core.schedule import ScaleSchedule


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
    needed = [(callback_name(callback), need) for callback in session.callbacks for need in callback.needs]
    needed += [(callback_name(callback), "taps") for callback in session.callbacks if callback.taps]
    if session.cache_policy:
        needed.append((session._owners["cache_policy"], "cache_policy"))
    for who, need in needed:
        if need not in there:
            raise ConfigError(
                f"{who} needs the capability {need!r}, which the backbone of {session.model.family} lacks",
                expected=f"a backbone that has it (this one has {', '.join(sorted(there)) or 'none'})",
            )
