"""Any network of timm as a frozen trunk, its weights from a local file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclevar.core.config.families import PublishedFile
from cyclevar.core.errors import CheckpointError, ConfigError
from cyclevar.core.networks.feature_net import FrozenNet
from cyclevar.core.runtime.files import sha256
from cyclevar.core.weights.checkpoints import load_published
from cyclevar.core.weights.hub import FOLDERS, locate


class TimmNet(FrozenNet):
    """The maps of a timm network's levels: stages of a convolutional one, blocks of a transformer."""

    def __init__(self, trunk: Any, *, name: str, weights_sha256: str, input_size: int) -> None:
        mean, std = trunk.pretrained_cfg["mean"], trunk.pretrained_cfg["std"]
        super().__init__(trunk, name=name, weights_sha256=weights_sha256, input_size=input_size, mean=mean, std=std)
        with torch.no_grad():
            maps = self.maps(torch.zeros(1, 3, input_size, input_size))
        self.channels = tuple(level.shape[1] for level in maps)
        """Of the map of every level."""

    def maps(self, images: Tensor, levels: Sequence[int] | None = None) -> list[Tensor]:
        """Maps ``[B,C,h,w]`` of ``levels``, in that order (None: of all), of ``images [B,3,H,W]`` in [-1,1]."""
        indices = None if levels is None else sorted(set(levels))
        found = self.trunk.forward_intermediates(self.prepare(images), indices=indices, intermediates_only=True)
        maps: list[Tensor] = list(found)
        return maps if indices is None or levels is None else [maps[indices.index(level)] for level in levels]


def load_timm_net(name: str, weights: str | None, input_size: int | None) -> TimmNet:
    """The timm network ``name`` on the CPU; calls with the same file share one.

    ``weights`` None: timm's own file for it, where it lies on this disk. ``input_size`` None: the side that it was
    trained with.

    Raises:
        ConfigError: timm knows no such network, or it cannot read pictures of that side.
        CheckpointError: the file is missing or does not fit.
    """
    import timm

    if not timm.is_model(name):
        raise ConfigError(
            f"there is no network named {name!r}",
            expected="efficientnet_lite0 or a model of timm",
            hint=f"timm has {', '.join(timm.list_models(f'*{name[:6]}*')[:4]) or 'none that begins like it'}",
        )
    file = PublishedFile("model.safetensors", "", (), f"timm/{name}", "see the repository")
    found = None if weights is not None else locate(file)
    path = Path(weights).expanduser() if weights is not None else found.path if found else None
    if path is None or not path.is_file():
        raise CheckpointError(
            f"{path} is not there" if path else f"the weights of {name} are not on this disk",
            expected=f"{file.name} of huggingface.co/{file.repository}",
            hint="fetch it where there is a network and name it with --set discriminator.settings.weights=FILE, or put "
            f"it into {file.repository} in a folder that {FOLDERS} names, or use efficientnet_lite0, which is offline",
        )
    return _load(name, path, path.stat().st_mtime_ns, input_size)


@functools.lru_cache(maxsize=2)
def _load(name: str, path: Path, changed: int, input_size: int | None) -> TimmNet:
    """``changed`` (the time of the file) keeps an older file of the same name apart."""
    import timm

    own = timm.get_pretrained_cfg(name)
    side = input_size or (own.input_size[-1] if own else 224)
    resized: dict[str, Any] = {"img_size": side} if input_size and own and own.fixed_input_size else {}
    tensors = load_published(path)
    try:
        with torch.random.fork_rng(devices=[]):
            expected = timm.create_model(name, pretrained=False, num_classes=0).state_dict()
            if missing := [key for key in expected if key not in tensors]:  # timm would leave them random
                raise KeyError(f"it lacks {', '.join(missing[:3])}")
            trunk = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors}, num_classes=0, **resized
            )
    except (RuntimeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not fit {name} ({type(error).__name__}: {' '.join(str(error).split())[:200]})",
            expected=f"model.safetensors of huggingface.co/timm/{name}",
        ) from error
    try:
        return TimmNet(trunk, name=name, weights_sha256=sha256(path), input_size=side)
    except (AttributeError, AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"{name} cannot be judged by at side {side} ({' '.join(str(error).split())[:200]})",
            expected="a network of timm with forward_intermediates, at a side that it reads",
        ) from error
