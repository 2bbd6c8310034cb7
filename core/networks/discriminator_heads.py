"""What discriminators over frozen features share: their heads, augmentation, and a network that is never saved."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cyclevar.core.interfaces.criteria import Discriminator
from cyclevar.core.networks.diff_augment import augment, check_parts
from cyclevar.core.networks.feature_net import FrozenNet


class MapHead(nn.Module):
    """A 1x1 and a 3x3 convolution over one level's map ``[B,C,h,w]``, one logit a position, all spectrally normed."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, affine=False)
        self.mix = spectral_norm(nn.Conv2d(channels, width, 1))
        self.hidden = spectral_norm(nn.Conv2d(width, width, 3, padding=1))
        self.out = spectral_norm(nn.Conv2d(width, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        h = F.leaky_relu(self.mix(self.norm(maps)), 0.2)
        h = F.leaky_relu(self.hidden(h), 0.2)
        logits: Tensor = self.out(h)
        return logits


class VectorHead(nn.Module):
    """A spectrally normed multilayer perceptron with one hidden layer over vectors ``[B,C]``, one logit a picture."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.hidden = spectral_norm(nn.Linear(channels, width))
        self.out = spectral_norm(nn.Linear(width, 1))

    def forward(self, vectors: Tensor) -> Tensor:
        logits: Tensor = self.out(F.leaky_relu(self.hidden(vectors), 0.2))
        return logits


class FrozenFeatureDiscriminator(Discriminator):
    """Heads on features of a frozen network, which is no part of parameters, state and checkpoints.

    Pictures are augmented (DiffAugment) before the network sees them; gradients pass through both.
    """

    def __init__(self, net: FrozenNet, heads: Iterable[nn.Module], parts: Sequence[str]) -> None:
        """``parts``: of DiffAugment, in order. Raises `UnknownNameError` for one that does not exist."""
        super().__init__()
        self.parts = check_parts(parts)
        self.heads = nn.ModuleList(heads)
        self._frozen = [net]  # in a list: neither a parameter nor a part of the state

    def forward(self, images: Tensor) -> list[Tensor]:
        net = self._frozen[0].to(images.device)
        seen = self.look(net, augment(images, self.parts))
        return [head(features) for head, features in zip(self.heads, seen, strict=True)]

    @abstractmethod
    def look(self, net: FrozenNet, images: Tensor) -> list[Tensor]:
        """What each head judges of ``images [B,3,H,W]`` in [-1,1]: maps ``[B,C,h,w]`` or vectors ``[B,C]``."""


def spread_levels(depth: int) -> tuple[int, ...]:
    """The levels at one third and two thirds of a network of ``depth`` levels, counted from 0: 3 and 7 of 12."""
    return tuple(sorted({max(depth // 3 - 1, 0), max(2 * depth // 3 - 1, 0)}))
