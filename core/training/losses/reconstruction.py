"""The losses between a picture and what it should be, by name, and how cycle and identity are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from cyclevar.core.config.training import LossConfig, PerceptualLossConfig
from cyclevar.core.evaluation.perceptual import PerceptualDistance, perceptual_distance
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.interfaces.criteria import PictureLoss
from cyclevar.core.training.losses.adversarial import absolute_difference, colour_difference


class AbsoluteDifference(PictureLoss):
    """`absolute_difference`."""

    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        return absolute_difference(output, images)


class ColourDifference(PictureLoss):
    """`colour_difference`."""

    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        return colour_difference(output, images)


class Perceptual(PictureLoss):
    """The mean of a perceptual distance over the batch."""

    def __init__(self, distance: PerceptualDistance) -> None:
        super().__init__()
        self.distance = distance
        self.frozen = f"{distance.name} {distance.weights_sha256[:16]}"

    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        distances: Tensor = self.distance(output, images)
        return distances.mean()


def _lpips(name: str, config: PerceptualLossConfig) -> Perceptual:
    trunk = None if config.trunk is None else Path(config.trunk).expanduser()
    return Perceptual(perceptual_distance(name, trunk_weights=trunk))


def build_lpips_alex(config: PerceptualLossConfig) -> Perceptual:
    """LPIPS over AlexNet. Raises `CheckpointError` where its trunk is missing."""
    return _lpips("lpips_alex", config)


def build_lpips_vgg(config: PerceptualLossConfig) -> Perceptual:
    """LPIPS over VGG-16. Raises `CheckpointError` where its trunk is missing."""
    return _lpips("lpips_vgg", config)


def build_efficientnet_lite0() -> Perceptual:
    """The perceptual distance that is always there."""
    return Perceptual(perceptual_distance("efficientnet_lite0"))


def build_perceptual() -> Perceptual:
    """The best perceptual distance whose weights are at hand."""
    return Perceptual(perceptual_distance("auto"))


class Reconstruction(nn.Module):
    """L_rec: the weighted sum of losses by name, a scalar. The paper's is L1 plus LPIPS (Sec. 3.4)."""

    def __init__(self, losses: Mapping[str, PictureLoss], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.losses = nn.ModuleDict({name: losses[name] for name in self.weights})

    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        loss = output.new_zeros(())
        for name, weight in self.weights.items():
            loss = loss + weight * self.losses[name](output, images)
        return loss


class Reconstructions(NamedTuple):
    """L_rec of the cycle (Eq. 13) and of the identity (Eq. 16); a loss that both have is shared."""

    cycle: Reconstruction
    identity: Reconstruction

    def frozen(self) -> str:
        """Names and hashes of all frozen weights in use."""
        losses = [loss for one in self for loss in one.losses.values() if isinstance(loss, PictureLoss)]
        return ", ".join(dict.fromkeys(loss.frozen for loss in losses if loss.frozen))


def build_loss(name: str, settings: Mapping[str, Any]) -> PictureLoss:
    """A registered loss. Raises `UnknownNameError`, `ConfigError` for its settings, and what its factory raises."""
    loss = get_manager().build("loss", name, settings)
    assert isinstance(loss, PictureLoss)
    return loss


def build_reconstructions(config: LossConfig) -> Reconstructions:
    """The losses of cycle and identity, each named loss built once."""
    terms = config.terms("cycle"), config.terms("identity")
    names = dict.fromkeys(name for weights in terms for name, weight in weights.items() if weight)
    losses = {name: build_loss(name, config.settings.get(name, {})) for name in names}
    return Reconstructions(*(Reconstruction(losses, weights) for weights in terms))
