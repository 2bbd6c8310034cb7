"""A translator: a model, its two domains and how to translate, in one folder.

::

    DIR/model.safetensors    weights and the settings that rebuild the model
    DIR/translator.json      domains, what the backbone is told of each, and the translation settings
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclevar.core.config.base import Settings, merged, validate
from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.inference.optimize import for_inference
from cyclevar.core.interfaces.backbone import Condition
from cyclevar.core.interfaces.model import PictureModel
from cyclevar.core.models.model import Model, load_picture_model
from cyclevar.core.next_scale.session import open_session
from cyclevar.core.runtime.files import save_text
from cyclevar.core.weights.checkpoints import require_file
from cyclevar.core.weights.shipped import SETTINGS, WEIGHTS

Target = str | int
"""A domain's name, or a class id or prompt that the backbone knows."""


class Translator:
    """Translates pictures between domains.

    ``domains`` are the names that a user gives, ``targets`` what the backbone is told for each (class id, domain name
    or prompt; the names themselves where None). Further keywords are settings of `TranslationConfig`.
    """

    def __init__(
        self,
        model: PictureModel,
        *,
        domains: Sequence[str] | None = None,
        targets: Sequence[int | str] | None = None,
        config: TranslationConfig | None = None,
        **settings: Any,
    ) -> None:
        self.model = model.eval()
        self.domains = tuple(domains if domains is not None else model.names)
        self.targets = tuple(targets if targets is not None else self.domains)
        if len(self.targets) != len(self.domains):
            raise ConfigError(f"{len(self.targets)} targets are given for {len(self.domains)} domains")
        model.remember(self.targets)
        base = (config or TranslationConfig()).model_dump()
        self.config = validate(TranslationConfig, merged(base, settings))
        self._session = open_session("translate", model, self.config) if isinstance(model, Model) else None

    @torch.no_grad()
    def __call__(self, images: Tensor, target: Target | Sequence[Target] | Tensor) -> Tensor:
        """Translate images ``[B,3,H,W]`` in [-1,1] of the model's size to ``target``, one for all or one a picture.

        A target is a domain's name, or a class id that the backbone knows. Returns ``[B,3,H,W]`` in [-1,1].
        """
        self._check(images)
        condition = self.condition(target, len(images))
        context = self.model.encode(images.to(self.model.device))
        return self.model.translate(context, condition, self.config, session=self._session).image

    def for_inference(self, *, int8: bool = False) -> Translator:
        """The same translations to rounding, sooner (`inference.optimize`); it can neither be trained nor saved.

        ``int8`` is faster still on a CPU, and not exact.
        """
        if not isinstance(self.model, Model):
            if int8:
                raise ConfigError(f"{self.model.family} has no transformer to run in int8", hint="leave --int8 out")
            return self
        model = for_inference(self.model, int8=int8)
        return Translator(model, domains=self.domains, targets=self.targets, config=self.config)

    @torch.no_grad()
    def round_trip(self, images: Tensor) -> Tensor:
        """Images through the tokenizer and back, where there is one: the best that any translation can look."""
        self._check(images)
        return self.model.round_trip(images.to(self.model.device))

    def condition(self, target: Target | Sequence[Target] | Tensor, count: int) -> Condition:
        """What the backbone is told for ``count`` pictures. Raises `UnknownNameError` for an unknown domain."""
        if isinstance(target, Tensor):
            target = target.tolist()
        wanted = [target] * count if isinstance(target, str | int) else list(target)
        if len(wanted) != count:
            raise ConfigError(f"{len(wanted)} targets are given for {count} images")
        table: dict[Target, Target] = dict(zip(self.domains, self.targets, strict=True))
        try:
            return self.model.condition([table.get(one, one) for one in wanted])
        except UnknownNameError as error:
            raise UnknownNameError("domain", error.name, {*self.domains, *error.known}) from error

    @property
    def default_target(self) -> str:
        """The second of two domains. Raises `ConfigError` where there are not two."""
        if len(self.domains) != 2:
            raise ConfigError("which domain to translate to is not said", expected=f"one of {', '.join(self.domains)}")
        return self.domains[1]

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Write the translator into ``folder``; ``half`` stores the weights in float16."""
        folder = Path(folder)
        self.model.save(folder / WEIGHTS, half=half)
        settings = _Stored(domains=self.domains, targets=self.targets, translation=self.config)
        save_text(folder / SETTINGS, json.dumps(settings.model_dump(), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device = "cpu", **settings: Any) -> Translator:
        """Open what `save` wrote. Further keywords change settings of `TranslationConfig`.

        Raises `CheckpointError` for files that are missing, damaged or do not fit each other, naming the keys.
        """
        folder = Path(folder)
        require_file(folder / SETTINGS)
        try:
            stored = validate(_Stored, json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
        except (ValueError, TypeError, ConfigError) as error:
            raise CheckpointError(
                f"{folder / SETTINGS} is damaged ({error})", hint="save the translator again"
            ) from error
        model = load_picture_model(folder / WEIGHTS).to(device)
        if settings and not model.has_settings:
            raise ConfigError(
                f"{model.family} has no setting {next(iter(settings))!r}", expected="none: it translates without tokens"
            )
        return cls(model, domains=stored.domains, targets=stored.targets, config=stored.translation, **settings)

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.model.image_size):
            raise ConfigError(
                f"images of shape {list(images.shape)} were given",
                expected=f"[B, 3, {self.model.image_size[0]}, {self.model.image_size[1]}]",
                hint="resize them first",
            )


class _Stored(Settings):
    """What stands in ``translator.json``."""

    domains: tuple[str, ...]
    targets: tuple[int | str, ...]
    translation: TranslationConfig
