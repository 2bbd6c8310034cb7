"""The frozen image tower of CLIP (Radford et al., arXiv 2103.00020), loaded by ``open_clip`` from a local file."""

from __future__ import annotations

import contextlib
import functools
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cyclevar.core.config.families import PublishedFile
from cyclevar.core.errors import CheckpointError, UnknownNameError
from cyclevar.core.networks.feature_net import FrozenNet
from cyclevar.core.runtime.files import sha256
from cyclevar.core.weights.hub import FOLDERS, locate

NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""How open_clip names the file of weights in a repository of the hub."""


class Seen(NamedTuple):
    """``maps``: tokens of the asked blocks ``[B,C,h,w]``, without the class token; ``pooled``: embedding ``[B,D]``."""

    maps: list[Tensor]
    pooled: Tensor


class ClipTower(FrozenNet):
    """The image tower with the mean, deviation and input side that its weights were trained with."""

    def __init__(self, visual: Any, *, name: str, weights_sha256: str) -> None:
        prepared = visual.preprocess_cfg
        side = visual.image_size
        super().__init__(
            visual,
            name=name,
            weights_sha256=weights_sha256,
            input_size=side if isinstance(side, int) else side[0],
            mean=prepared["mean"],
            std=prepared["std"],
        )
        with torch.no_grad():
            seen: Seen = self(torch.zeros(1, 3, self.input_size, self.input_size))
        self.channels = [level.shape[1] for level in seen.maps]
        """Of the map of every block."""
        self.pooled_channels: int = seen.pooled.shape[1]

    def forward(self, images: Tensor, levels: Sequence[int] | None = None) -> Seen:
        """What blocks ``levels`` (None: all) and the whole tower see in ``images [B,3,H,W]`` in [-1,1]."""
        indices = None if levels is None else list(levels) or [len(self.channels) - 1]
        found = self.trunk.forward_intermediates(self.prepare(images), indices=indices)
        maps = found["image_intermediates"]
        return Seen([] if levels is not None and not levels else maps, found["image_features"])


def load_tower(model: str, pretrained: str, weights: str | None) -> ClipTower:
    """The tower of an open_clip model on the CPU; calls with the same file share one.

    ``weights`` None: the file of the published weights ``pretrained``, where it lies on this disk.

    Raises:
        UnknownNameError: open_clip knows no such model or no such weights of it.
        CheckpointError: the file is missing or does not fit.
    """
    import open_clip

    name = model.replace("/", "-")
    if name not in open_clip.list_models():
        raise UnknownNameError("CLIP model", model, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags and (tags or weights is None):
        raise UnknownNameError(f"published weights of {name}", pretrained, tags)
    published = open_clip.get_pretrained_cfg(name, pretrained)
    path = Path(weights).expanduser() if weights is not None else _locate(name, pretrained, published)
    if not path.is_file():
        raise CheckpointError(f"{path} is not there", **_whence(name, pretrained, published))
    return _load(name, pretrained, path, path.stat().st_mtime_ns)


def _candidates(published: Mapping[str, Any]) -> list[PublishedFile]:
    """The files of the hub that may hold the weights."""
    owner, _, rest = str(published.get("hf_hub") or "").partition("/")
    repository, _, file = rest.partition("/")
    names = [file] if file else NAMES
    return [PublishedFile(one, "", (), f"{owner}/{repository}", "see the repository") for one in names if repository]


def _locate(model: str, pretrained: str, published: Mapping[str, Any]) -> Path:
    for candidate in _candidates(published):
        found = locate(candidate)
        if found is not None:
            return found.path
    raise CheckpointError(
        f"the weights {pretrained} of CLIP {model} are not on this disk", **_whence(model, pretrained, published)
    )


def _whence(model: str, pretrained: str, published: Mapping[str, Any]) -> dict[str, str]:
    """Which file is wanted, where it comes from, and which option names it."""
    files = [f"{file.name} of huggingface.co/{file.repository}" for file in _candidates(published)]
    return {
        "expected": " or ".join(files) or f"the weights {pretrained} of {model} as a file of open_clip",
        "hint": "fetch it where there is a network and name it with --set discriminator.settings.weights=FILE, or put "
        f"it into OWNER/REPOSITORY in a folder that {FOLDERS} names, or use --discriminator features, which is offline",
    }


@functools.lru_cache(maxsize=2)
def _load(model: str, pretrained: str, path: Path, changed: int) -> ClipTower:
    """``changed`` (the time of the file) keeps an older file of the same name apart."""
    import open_clip

    published = open_clip.get_pretrained_cfg(model, pretrained)
    try:
        with torch.random.fork_rng(devices=[]), _log_untouched():
            whole = open_clip.create_model(
                model,
                pretrained=str(path),
                force_quick_gelu=bool(published.get("quick_gelu")),
                force_preprocess_cfg={key: published[key] for key in ("mean", "std") if key in published},
            )
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, EOFError, OSError) as error:
        raise _misfit(path, model, published, error) from error
    except pickle.UnpicklingError as error:
        raise _misfit(path, model, published, error) from error
    return ClipTower(whole.visual, name=f"clip {model} {pretrained}", weights_sha256=sha256(path))


def _misfit(path: Path, model: str, published: Mapping[str, Any], error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:200]
    return CheckpointError(
        f"{path} does not fit CLIP {model} ({type(error).__name__}: {reason})",
        expected=_whence(model, "", published)["expected"],
        hint="set discriminator.settings.model and .pretrained to what the file holds",
    )


@contextlib.contextmanager
def _log_untouched() -> Iterator[None]:
    """open_clip logs by the root logger, which then gets a handler that repeats everybody's messages."""
    before = list(logging.root.handlers)
    try:
        yield
    finally:
        logging.root.handlers[:] = before
