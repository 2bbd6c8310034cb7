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
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.checkpoints import require_file, save_text
from cyclevar.core.config import TranslationConfig
from cyclevar.core.errors import CheckpointError, ConfigError
from cyclevar.core.model import Model, load_model
from cyclevar.core.settings import validate
from cyclevar.core.training.tokenizer import round_trip
from cyclevar.core.translation import translate

WEIGHTS, SETTINGS = "model.safetensors", "translator.json"


class Translator:
    """Translates pictures between domains.

    ``domains`` are the names that a user gives, ``targets`` what the backbone is told for each (class id, domain name
    or prompt; the names themselves where None). Further keywords are settings of `TranslationConfig`.
    """

    def __init__(
        self,
        model: Model,
        *,
        domains: Sequence[str] | None = None,
        targets: Sequence[int | str] | None = None,
        config: TranslationConfig | None = None,
        **settings: Any,
    ) -> None:
        self.model = model.eval()
        self.domains = tuple(domains if domains is not None else model.backbone.names)
        self.targets = tuple(targets if targets is not None else self.domains)
        if len(self.targets) != len(self.domains):
            raise ConfigError(f"{len(self.targets)} targets are given for {len(self.domains)} domains")
        base = (config or TranslationConfig()).model_dump()
        self.config = validate(TranslationConfig, base | settings)

    @torch.no_grad()
    def __call__(self, images: Tensor, target: str | int | Sequence[str | int] | Tensor) -> Tensor:
        """Translate images ``[B,3,H,W]`` in [-1,1] of the model's size to ``target``, one for all or one a picture.

        A target is a domain's name, or a class id that the backbone knows. Returns ``[B,3,H,W]`` in [-1,1].
        """
        self._check(images)
        condition = self.model.backbone.condition(self._targets(target, len(images)))
        return translate(self.model, images.to(self.model.device), condition, self.config).image

    @torch.no_grad()
    def round_trip(self, images: Tensor) -> Tensor:
        """Images through the tokenizer and back: the best that any translation can look."""
        self._check(images)
        return round_trip(self.model.tokenizer, images.to(self.model.device))

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Write the translator into ``folder``; ``half`` stores the weights in float16."""
        folder = Path(folder)
        self.model.save(folder / WEIGHTS, half=half)
        settings = {"domains": self.domains, "targets": self.targets, "translation": self.config.model_dump()}
        save_text(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device = "cpu", **settings: Any) -> Translator:
        """Open what `save` wrote. Further keywords change settings of `TranslationConfig`."""
        folder = Path(folder)
        require_file(folder / SETTINGS)
        try:
            stored = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            domains, targets, translation = stored["domains"], stored["targets"], stored["translation"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder / SETTINGS} is damaged ({error})", hint="save the translator again"
            ) from error
        config = validate(TranslationConfig, translation)
        model = load_model(folder / WEIGHTS)
        return cls(model.to(device), domains=domains, targets=targets, config=config, **settings)

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.model.image_size):
            raise ConfigError(
                f"images of shape {list(images.shape)} were given",
                expected=f"[B, 3, {self.model.image_size[0]}, {self.model.image_size[1]}]",
                hint="resize them first",
            )

    def _targets(self, target: str | int | Sequence[str | int] | Tensor, batch: int) -> list[str | int]:
        if isinstance(target, Tensor):
            target = target.tolist()
        wanted = [target] * batch if isinstance(target, str | int) else list(target)
        if len(wanted) != batch:
            raise ConfigError(f"{len(wanted)} targets are given for {batch} images")
        table = dict(zip(self.domains, self.targets, strict=True))
        return [table.get(one, one) if isinstance(one, str) else one for one in wanted]


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images ``[B,3,H,W]`` in [-1,1] at another size, antialiased."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
