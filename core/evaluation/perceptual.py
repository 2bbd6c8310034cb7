"""Perceptual distances between pictures: LPIPS where its trunk is at hand, EfficientNet-Lite0 elsewhere.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (LPIPS, arXiv 1801.03924): the
maps of a frozen network are normalised over channels, and their squared differences averaged over space. Nothing here
downloads.
"""

from __future__ import annotations

import pickle
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.networks.feature_net import FeatureNet, load_feature_net
from cyclevar.core.runtime.files import sha256

TRUNK_FILES = {"lpips_vgg": "vgg16-397923af.pth", "lpips_alex": "alexnet-owt-7be5be79.pth"}
"""Torchvision's file of the trunk of each LPIPS net, in the order in which ``auto`` looks for them."""

NAMES = ("auto", *TRUNK_FILES, "efficientnet_lite0")


class PerceptualDistance(nn.Module, ABC):
    """A distance between pictures, differentiable in both, with frozen weights.

    ``name`` says which one is in use, ``weights_sha256`` identifies the weights of its trunk, and ``reads`` says at
    which size it sees pictures.
    """

    name: str
    weights_sha256: str
    reads: str

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Stay in evaluation mode: nothing here is trained."""
        return super().train(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances ``[B]``, 0 or more, of the pictures ``[B,3,H,W]`` in [-1,1], pair by pair."""
        return self.between(self.maps(x), self.maps(y))

    def between(self, x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
        """Distances ``[B]`` of pictures whose `maps` are known."""
        squared = [
            (F.normalize(ours, dim=1) - F.normalize(theirs, dim=1)).square() for ours, theirs in zip(x, y, strict=True)
        ]
        return self.combine(squared)

    @abstractmethod
    def maps(self, images: Tensor) -> Sequence[Tensor]:
        """Maps ``[B,C_k,h_k,w_k]`` of the trunk."""

    @abstractmethod
    def combine(self, squared: Sequence[Tensor]) -> Tensor:
        """Squared differences of the normalised maps, ``[B,C_k,h_k,w_k]`` each, to one figure per picture ``[B]``."""


class FeatureNetDistance(PerceptualDistance):
    """LPIPS without learned channel weights over the first ``levels`` maps of a feature net, averaged over levels.

    0 for equal pictures, around 1.3 for unrelated ones, at most 4: larger figures than those of LPIPS.
    """

    def __init__(self, net: FeatureNet, *, levels: int = 4) -> None:
        super().__init__()
        self.net, self.levels = net, levels
        self.name, self.weights_sha256 = net.name, net.weights_sha256
        self.reads = f"{net.input_size} px, {net.resize_filter}, {levels} levels"

    def maps(self, images: Tensor) -> Sequence[Tensor]:
        return self.net.maps(images, self.levels)

    def combine(self, squared: Sequence[Tensor]) -> Tensor:
        return torch.stack([difference.sum(1).mean((1, 2)) for difference in squared]).mean(0)


class LpipsDistance(PerceptualDistance):
    """LPIPS 0.1 as published, except that its gradient is finite where all activations of a position are zero.

    ``trunk_weights``: torchvision's file of AlexNet or VGG-16, whichever ``name`` asks for; the learned channel weights
    ship with the package ``lpips``.
    """

    reads = "pictures at their own size"

    def __init__(self, name: str, trunk_weights: Path) -> None:
        super().__init__()
        self.name = name
        lpips = _lpips_with_empty_trunk(name.removeprefix("lpips_"))
        _load_trunk(lpips.net, trunk_weights)
        self.weights_sha256 = sha256(trunk_weights)
        self.scaling: nn.Module = lpips.scaling_layer
        self.trunk: nn.Module = lpips.net
        self.heads: nn.ModuleList = lpips.lins
        self.requires_grad_(False)
        self.eval()

    def maps(self, images: Tensor) -> Sequence[Tensor]:
        maps: Sequence[Tensor] = self.trunk(self.scaling(images))
        return maps

    def combine(self, squared: Sequence[Tensor]) -> Tensor:
        weighed = [head(difference).mean((1, 2, 3)) for head, difference in zip(self.heads, squared, strict=True)]
        return torch.stack(weighed).sum(0)


def perceptual_distance(
    name: str = "auto", *, trunk_weights: Path | None = None, input_size: int = 64, levels: int = 4
) -> PerceptualDistance:
    """The perceptual distance called ``name``, frozen, on the CPU; its ``name`` says what ``auto`` chose.

    ``auto``: LPIPS with VGG-16, else with AlexNet, where the trunk lies in the torch hub cache (``TORCH_HOME``), else
    ``efficientnet_lite0``. ``trunk_weights``: a trunk elsewhere, for ``lpips_vgg`` or ``lpips_alex``. ``input_size``
    and ``levels`` shape ``efficientnet_lite0`` only: LPIPS reads pictures at their own size.

    Raises:
        UnknownNameError: no distance has this name.
        ConfigError: ``trunk_weights`` was given, but not which LPIPS it belongs to.
        CheckpointError: the trunk is absent or does not fit.
    """
    if name not in NAMES:
        raise UnknownNameError("perceptual distance", name, NAMES)
    if trunk_weights is not None and name not in TRUNK_FILES:
        raise ConfigError(
            f"trunk weights were given for the perceptual distance {name!r}",
            expected="one of " + " and ".join(TRUNK_FILES) + " with them",
        )
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    trunks = {lpips: trunk_weights or cache / file for lpips, file in TRUNK_FILES.items() if name in ("auto", lpips)}
    for lpips, path in trunks.items():
        if path.is_file():
            return LpipsDistance(lpips, path)
    if name in trunks:
        raise CheckpointError(
            f"the trunk of {name} is not at {trunks[name]}",
            expected=f"torchvision's {TRUNK_FILES[name]}",
            hint="put it there, name the file, or use 'auto', which falls back to EfficientNet-Lite0",
        )
    return FeatureNetDistance(load_feature_net(input_size=input_size), levels=levels)


def _lpips_with_empty_trunk(net: str) -> Any:
    """LPIPS with the learned channel weights of its package and a trunk without memory."""
    import lpips

    with torch.device("meta"), warnings.catch_warnings():
        # lpips asks torchvision for an untrained trunk in words that torchvision has deprecated
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torchvision\.models")
        module = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    channel_weights = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    module.load_state_dict(
        torch.load(channel_weights, map_location="cpu", weights_only=True), strict=False, assign=True
    )
    return module


def _load_trunk(trunk: nn.Module, path: Path) -> None:
    """Fill the slices of an LPIPS trunk, ``slice2.3.weight``, from torchvision's ``features.3.weight``."""
    try:
        published = torch.load(path, map_location="cpu", weights_only=True)
        found = {key: published["features." + key.partition(".")[2]] for key in trunk.state_dict()}
        trunk.load_state_dict(found, assign=True)
    except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} does not fit this LPIPS trunk ({type(error).__name__}: {error})".replace("\n", " "),
            expected="the state dict that torchvision publishes for it",
        ) from error
