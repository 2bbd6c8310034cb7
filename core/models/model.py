"""A family's model: tokenizer and backbone over one schedule, with their weights in and out."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cyclevar.core.config.base import Settings, validate
from cyclevar.core.config.families import FamilyConfig, ModelConfig
from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.interfaces.backbone import Backbone, Condition
from cyclevar.core.interfaces.callbacks import Session
from cyclevar.core.interfaces.model import Context, PictureModel, TokenModel
from cyclevar.core.interfaces.tokenizer import Tokenizer
from cyclevar.core.models.direct import DirectModel
from cyclevar.core.models.stored import StoredModel
from cyclevar.core.next_scale.translation import Translation, encode_context, translate_context
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.core.weights.checkpoints import check_numbers, load_published, load_tensors
from cyclevar.core.weights.name_table import NameTable, OfficialFormat, State
from cyclevar.core.weights.published import family_config, find_weights

AnyModel = TypeVar("AnyModel", bound=PictureModel)


class Model(StoredModel, TokenModel):
    """Tokenizer and backbone of one ``family``, made for ``schedule``; ``config`` rebuilds it."""

    def __init__(
        self,
        family: str,
        config: FamilyConfig,
        tokenizer: Tokenizer,
        backbone: Backbone,
        schedule: ScaleSchedule,
        official: OfficialFormat | None = None,
    ) -> None:
        super().__init__()
        self.family, self._config, self.schedule, self.official = family, config, schedule, official
        self.tokenizer, self.backbone = tokenizer, backbone

    @property
    def config(self) -> FamilyConfig:
        """The settings of the family, with the domains that were added since."""
        return self._config.model_copy(update={"tokenizer": self.tokenizer.config, "backbone": self.backbone.config})

    def at(self, schedule: ScaleSchedule) -> Model:
        """The same parts for another schedule, where the family can: pictures of another size, or other steps."""
        config = self.config.model_copy(update={"schedule": str(schedule)})
        return Model(self.family, config, self.tokenizer, self.backbone, schedule, self.official)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the pictures that the schedule is made for."""
        height, width = self.schedule.full
        return height * self.tokenizer.stride, width * self.tokenizer.stride

    def load_official(
        self,
        tokenizer: str | Path | Mapping[str, Tensor] | None = None,
        backbone: str | Path | Mapping[str, Tensor] | None = None,
    ) -> Model:
        """Load published weights: files (``.pth``, ``.safetensors``) or state dicts in the published names.

        A file that is on this disk may be given as it is called on the hub, such as ``var_d16.pth``.

        Raises `CheckpointError` naming the keys that are missing, unknown, of another shape or not finite.
        """
        for part, source in (("tokenizer", tokenizer), ("backbone", backbone)):
            if source is None:
                continue
            table, module = self._table(part), self.get_submodule(part)
            if isinstance(source, Mapping):
                published, what = source, f"the given {part} state dict"
            else:
                path = find_weights(source)
                read = get_manager().first("cyclevar_load_checkpoint", path=path, target=part)
                published, what = load_published(path, table.wrappers) if read is None else read, str(path)
            expected = module.state_dict()
            looks_like = functools.partial(recognize, published, better_than=table.likeness(published, expected))
            state = table.to_ours(published, expected, what=what, looks_like=looks_like)
            check_numbers(what, state, expected)
            self._fill(part, state, owned=not isinstance(source, Mapping))
        return self

    def export_official(self) -> dict[str, dict[str, Tensor]]:
        """State dicts in the published names, by part: ``tokenizer`` and ``backbone``.

        Rows of added domains have no place in the published format and are left out.
        """
        return {
            part: self._table(part).to_published(self.get_submodule(part).state_dict())
            for part in ("tokenizer", "backbone")
        }

    def _table(self, part: str) -> NameTable:
        if self.official is None:
            raise ConfigError(f"the family {self.family} has no published files")
        table: NameTable = getattr(self.official, part)
        return table

    @property
    def names(self) -> tuple[str, ...]:
        """Domain names that the backbone knows."""
        return self.backbone.names

    @property
    def translates(self) -> Backbone:
        """The backbone; the tokenizer is never trained to translate."""
        return self.backbone

    def replaced(self, translates: nn.Module) -> Model:
        assert isinstance(translates, Backbone)
        return Model(self.family, self._config, self.tokenizer, translates, self.schedule, self.official)

    def remember(self, targets: Sequence[int | str]) -> None:
        self.backbone.remember(targets)

    def learn(self, targets: Sequence[int | str]) -> Sequence[str]:
        """New names start from the mean of what the backbone knows; prompts are encoded once, not in every update."""
        self.remember(targets)
        new = []
        for target in targets:
            # A folder may be called 2023: a text names a domain, only a number is a class id.
            named = isinstance(target, str) and target.isdecimal()
            try:
                if named and target not in self.backbone.names:
                    raise UnknownNameError("domain", str(target), self.backbone.names)
                self.condition([target])
            except UnknownNameError:
                self.backbone.add_domain(str(target))
                new.append(str(target))
        return new

    def condition(self, targets: Sequence[int | str]) -> Condition:
        return self.backbone.condition(targets)

    def encode(self, images: Tensor) -> Context:
        """F_1..F_K of the images (`cyclevar.core.next_scale.translation.encode_context`)."""
        return encode_context(self, images)

    def reconstruct(self, context: Context) -> Tensor:
        """The tokenizer's round trip: what is left of pictures once they are codes."""
        return self.tokenizer.decode(self.tokenizer.as_latent(context[-1]))

    def translate(
        self,
        context: Context,
        condition: Condition,
        config: TranslationConfig,
        *,
        clamp: bool = True,
        session: Session | None = None,
    ) -> Translation:
        return translate_context(self, context, condition, config, clamp=clamp, session=session)

    def _fresh(self) -> Model:
        return build(self.family, self.config)


def recognize(published: State, *, better_than: float = 0.5) -> str:
    """What tensors of a published file, or of ours, look like: ``the backbone of var d20``; "" for nothing known.

    Compares names and shapes with those of every preset of every family. A likeness has to be ``better_than`` another.
    """
    if {name.partition(".")[0] for name in published} == {"tokenizer", "backbone"}:
        known = {family: _own_names(family) for family in get_manager().registry.names("backbone")}
        likest = max(known, key=lambda family: len(known[family] & published.keys()), default="")
        return f"a model file of cyclevar ({likest}), which is given alone" if likest else ""
    best, found = max(better_than, 0.5), dict[tuple[str, str], list[str]]()
    for family in get_manager().registry.names("backbone"):
        for preset in family_config(family).presets():
            model = build(family, preset, initialize=False)
            for part in ("tokenizer", "backbone") if model.official else ():
                score = model._table(part).likeness(published, model.get_submodule(part).state_dict())
                if score > best:
                    best, found = score, {}
                if score == best and score > better_than:
                    found.setdefault((part, family), []).append(preset)
    return " or ".join(f"the {part} of {family} {', '.join(presets)}" for (part, family), presets in found.items())


def _own_names(family: str) -> set[str]:
    """What the tensors of a family's first preset are called here."""
    presets = family_config(family).presets()
    return set(build(family, next(iter(presets)), initialize=False).state_dict()) if presets else set()


def build(
    family: str, config: str | Mapping[str, Any] | Settings = "tiny", *, initialize: bool = True, **overrides: Any
) -> Model:
    """A model of a registered family with fresh weights.

    ``config``: a preset's name, or settings (sections ``tokenizer``, ``backbone``, ``schedule``); ``overrides`` change
    them section by section. ``initialize=False`` leaves the weights without memory, for `Model.load_official` or
    `Model.load_state` to fill: large models are built at once. Raises `UnknownNameError` for an unknown family or
    preset, `ConfigError` for a bad setting.
    """
    return _build("backbone", Model, family, config, initialize, overrides)


def build_direct(
    family: str, config: str | Mapping[str, Any] | Settings = "tiny", *, initialize: bool = True, **overrides: Any
) -> DirectModel:
    """The same for a registered generator, which translates without tokens."""
    return _build("generator", DirectModel, family, config, initialize, overrides)


def is_generator(family: str) -> bool:
    """Return whether a family translates without tokens, so that `build_direct` builds it."""
    return family in get_manager().registry.names("generator")


def build_any(
    family: str, config: str | Mapping[str, Any] | Settings = "tiny", *, initialize: bool = True, **overrides: Any
) -> PictureModel:
    """Return what `build` or `build_direct` makes, whichever of them the family is for."""
    make = build_direct if is_generator(family) else build
    model: PictureModel = make(family, config, initialize=initialize, **overrides)
    return model


def _build(
    kind: str,
    expected: type[AnyModel],
    family: str,
    config: str | Mapping[str, Any] | Settings,
    initialize: bool,
    overrides: Mapping[str, Any],
) -> AnyModel:
    manager = get_manager()
    entry = manager.registry.get(kind, family)
    config_class = entry.load_config()
    assert isinstance(config_class, type)
    assert issubclass(config_class, ModelConfig)
    if isinstance(config, str):
        presets = config_class.presets()
        if config not in presets:
            raise UnknownNameError(f"preset of {family}", config, presets)
        config = presets[config]
    data = config.model_dump() if isinstance(config, Settings) else dict(config)
    for key, value in overrides.items():
        data[key] = {**data.get(key, {}), **value} if isinstance(value, Mapping) else value
    settings = validate(config_class, data)
    with contextlib.nullcontext() if initialize else torch.device("meta"):
        model = manager.fold("cyclevar_model_built", entry.load()(settings), config=settings)
    assert isinstance(model, expected)
    return model


def load_model(path: str | Path, **overrides: Any) -> Model:
    """A model that `Model.save` wrote; ``overrides`` change its settings as in `build`."""
    model = load_picture_model(path, **overrides)
    if not isinstance(model, Model):
        raise CheckpointError(
            f"{path} is of the generator {model.family}, which has no tokens",
            expected=f"a model of {' or '.join(get_manager().registry.names('backbone'))}",
        )
    return model


def load_picture_model(path: str | Path, **overrides: Any) -> PictureModel:
    """The same, for a generator too."""
    state, metadata = load_tensors(Path(path))
    if "family" not in metadata or "config" not in metadata:
        raise CheckpointError(
            f"{path} does not say which family it belongs to",
            expected="a model file that cyclevar wrote",
            hint="give published files for both parts, --tokenizer-weights beside the transformer's",
        )
    family = metadata["family"]
    model = build_any(family, metadata["config"], initialize=False, **overrides)
    model.load_state(state, what=str(path), owned=True)
    return model
