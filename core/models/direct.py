"""Models that translate pictures as they are, by one network a direction and without tokens: rivals to compare with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclevar.core.config.families import DirectConfig
from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.interfaces.backbone import Condition
from cyclevar.core.interfaces.model import Context, PictureModel, Translated
from cyclevar.core.models.stored import StoredModel

if TYPE_CHECKING:
    from cyclevar.core.interfaces.callbacks import Session


class DirectModel(StoredModel):
    """Two networks, ``[B,3,H,W]`` to ``[B,3,H,W]``: the first makes pictures of the first domain, and so on."""

    has_settings = False

    def __init__(self, family: str, config: DirectConfig, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.family, self._config = family, config
        self.networks = nn.ModuleList(networks)

    @property
    def config(self) -> DirectConfig:
        return self._config

    @property
    def image_size(self) -> tuple[int, int]:
        return self._config.size, self._config.size

    @property
    def names(self) -> tuple[str, ...]:
        return self._config.domains

    @property
    def translates(self) -> nn.Module:
        """Both networks."""
        return self.networks

    def replaced(self, translates: nn.Module) -> Self:
        found = copy.copy(self)
        found._modules = {"networks": translates}
        return found

    def remember(self, targets: Sequence[int | str]) -> None:
        """The networks are all there is to know."""

    def learn(self, targets: Sequence[int | str]) -> Sequence[str]:
        """The first network learns the first target. Raises `ConfigError` unless there are two, both names."""
        names = tuple(str(target) for target in targets)
        if names == self.names:
            return ()
        if self.names or len(set(names)) != 2 or not all(isinstance(target, str) for target in targets):
            raise ConfigError(
                f"{self.family} cannot learn {', '.join(map(str, targets))}",
                expected=" and ".join(self.names) if self.names else "the names of two domains",
            )
        self._config = self._config.model_copy(update={"domains": names})
        return names

    def condition(self, targets: Sequence[int | str]) -> Condition:
        """One-hot rows over the two domains."""
        for target in targets:
            if target not in self.names:
                raise UnknownNameError("domain", str(target), self.names)
        chosen = torch.tensor([self.names.index(str(target)) for target in targets], device=self.device)
        return Condition(F.one_hot(chosen, len(self.networks)).float())

    def encode(self, images: Tensor) -> Context:
        """The images themselves."""
        return [images]

    def reconstruct(self, context: Context) -> Tensor:
        """The very pictures: nothing is lost."""
        return context[0]

    def translate(
        self,
        context: Context,
        condition: Condition,
        config: TranslationConfig,
        *,
        clamp: bool = True,
        session: Session | None = None,
    ) -> Translated:
        """Each picture through the network of its target; ``config`` says nothing to a network without tokens."""
        [images] = context
        chosen = condition.vector.argmax(dim=1)
        rows = [torch.nonzero(chosen == domain).squeeze(1) for domain in range(len(self.networks))]
        made = [network(images[part]) for network, part in zip(self.networks, rows, strict=True) if len(part)]
        image = torch.cat(made)[torch.cat(rows).argsort()]
        return Translated(image.clamp(-1, 1) if clamp else image)

    def _fresh(self) -> PictureModel:
        fresh = get_manager().registry.get("generator", self.family).load()(self._config)
        assert isinstance(fresh, PictureModel)
        return fresh
