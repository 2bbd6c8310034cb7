"""The frozen networks that judge pictures, where their weights are found, and what identifies them.

What always works offline is EfficientNet-Lite0. Inception and DINO are used where their published weights lie on this
disk; nothing here downloads.

::

    Inception   pt_inception-2015-12-05-6726825d.pth, or the same file as torch-fidelity names it: torch hub cache
    DINO        model.safetensors of timm/vit_base_patch8_224.dino: Hugging Face cache, CYCLEVAR_MODELS/REPOSITORY;
                dino_vitbase8_pretrain.pth: torch hub cache
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclevar.core.config.families import PublishedFile
from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.evaluation.perceptual import FeatureNetDistance, PerceptualDistance, perceptual_distance
from cyclevar.core.interfaces.criteria import PictureMetric
from cyclevar.core.networks.feature_net import FeatureNet, load_feature_net
from cyclevar.core.runtime.files import sha256
from cyclevar.core.weights.checkpoints import load_published
from cyclevar.core.weights.hub import FOLDERS, locate
from cyclevar.core.weights.name_table import check_keys

FEATURES = ("auto", "inception", "efficientnet_lite0")
"""Names of the nets whose pooled features are compared."""

INCEPTION_FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
INCEPTION_ADDRESS = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILES[0]}"
INCEPTION_SHA256 = "6726825d"
"""How the hash of the published file begins, by its own name."""

DINO_MODEL = "vit_base_patch8_224.dino"
DINO_HUB_FILE = PublishedFile("model.safetensors", "", (), f"timm/{DINO_MODEL}", "Apache-2.0")
DINO_TORCH_FILE = "dino_vitbase8_pretrain.pth"
DINO_ADDRESS = f"https://dl.fbaipublicfiles.com/dino/dino_vitbase8_pretrain/{DINO_TORCH_FILE}"


class InceptionNet(nn.Module):
    """The 2048 pooled features of the Inception network that FID is published with (``torch-fidelity``).

    Pictures are rounded to 8 bits and resized to 299 px as that network's reference code does, so that published
    figures can be compared with where their pictures were prepared alike.
    """

    name = "inception"
    input_size = 299
    resize_filter = "bilinear as in TensorFlow 1, not antialiased"

    def __init__(self, weights: Path) -> None:
        """Raises `CheckpointError` for a file that does not fit, `ConfigError` without ``torch-fidelity``."""
        super().__init__()
        module = _torch_fidelity()
        load_published(weights)  # refuses whatever is no plain tensor: the package itself would run it
        try:
            self.trunk: nn.Module = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights))
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"{weights} does not fit Inception ({' '.join(str(error).split())[:200]})",
                expected=f"the tensors of {INCEPTION_FILES[0]}",
            ) from error
        self.weights_sha256 = sha256(weights)
        self.register_buffer("mean", torch.zeros(1), persistent=False)  # tells where the net is

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features ``[B,2048]`` of pictures ``[B,3,H,W]`` in [-1,1]; there is no gradient."""
        levels = images.detach().float().clamp(-1, 1).add(1).mul(127.5).round().byte()
        pooled: Tensor = self.trunk(levels)[0]
        return pooled


class DinoKeys(nn.Module):
    """The keys of the last block of a vision transformer trained by DINO, all heads joined: what shows structure.

    Tumanyan et al., "Splicing ViT Features for Semantic Appearance Transfer" (arXiv 2201.00424), as CycleGAN-Turbo
    (arXiv 2403.12036) measures its DINO structure distance: ViT-B/8 at 224 px.
    """

    resize_filter = "bilinear, antialiased"

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: Any, *, name: str, weights_sha256: str) -> None:
        """``trunk``: a vision transformer of timm."""
        super().__init__()
        self.trunk, self.name, self.weights_sha256 = trunk, name, weights_sha256
        self.input_size: int = trunk.patch_embed.img_size[0]
        for statistic, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            self.register_buffer(statistic, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Keys ``[B,width,1,tokens]`` of pictures ``[B,3,H,W]`` in [-1,1], the class token first: a map of one row."""
        size = (self.input_size, self.input_size)
        x = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        found: list[Tensor] = []
        hook = self.trunk.blocks[-1].attn.qkv.register_forward_hook(lambda layer, given, output: found.append(output))
        try:
            self.trunk.forward_features(((x + 1) / 2 - self.mean) / self.std)
        finally:
            hook.remove()
        keys = found[0].chunk(3, dim=-1)[1]
        return keys.transpose(1, 2).unsqueeze(2)


JudgeNet = FeatureNet | InceptionNet | DinoKeys | PerceptualDistance


@dataclass(frozen=True)
class Judges:
    """The networks of one evaluation.

    ``features`` gives what sets are compared by, ``layout`` the maps of the structure distance; ``perceptual`` and
    ``dino`` may be missing, and then the figures that need them are. ``registered``: figures that plugins bring, by
    name.
    """

    features: FeatureNet | InceptionNet
    layout: FeatureNet | None = None
    perceptual: PerceptualDistance | None = None
    dino: DinoKeys | None = None
    registered: Mapping[str, PictureMetric] = field(default_factory=dict)

    @classmethod
    def of(cls, net: FeatureNet) -> Judges:
        """One net for everything that it can do alone."""
        return cls(features=net, layout=net)

    def nets(self) -> dict[str, JudgeNet]:
        """Those that are there, by what they are for."""
        named: dict[str, JudgeNet | None] = {
            "features": self.features,
            "structure": self.layout,
            "perceptual_distance": self.perceptual,
            "dino_structure": self.dino,
        }
        return {use: net for use, net in named.items() if net is not None}

    @property
    def device(self) -> torch.device:
        """Where the nets are."""
        return self.features.get_buffer("mean").device

    def to(self, device: torch.device) -> Judges:
        """The same nets, on ``device``."""
        for net in (*self.nets().values(), *self.registered.values()):
            net.to(device)
        return self


@dataclass(frozen=True)
class Net:
    """What identifies a net: figures are comparable only where all of it agrees. ``reads`` says what the net sees."""

    name: str
    weights_sha256: str
    reads: str

    @classmethod
    def of(cls, net: JudgeNet) -> Net:
        if isinstance(net, PerceptualDistance):
            return cls(net.name, net.weights_sha256, net.reads)
        return cls(net.name, net.weights_sha256, f"{net.input_size} px, {net.resize_filter}")


NEEDS = {"structure_distance": "layout", "dino_structure": "dino", "perceptual_distance": "perceptual"}
"""Figure -> the net of `Judges` without which it is not computed."""


def open_judges(
    metrics: Collection[str],
    *,
    features: str = "auto",
    feature_weights: Path | None = None,
    perceptual: str = "auto",
    perceptual_weights: Path | None = None,
    dino_weights: Path | None = None,
    needs_dino: bool = False,
) -> Judges:
    """The nets that ``metrics`` need, on the CPU; all choices are made by what lies on this disk.

    DINO, unless ``needs_dino``, only where its weights are; it is slow without a GPU. Raises as `open_features`,
    `cyclevar.core.evaluation.perceptual.perceptual_distance` and `open_dino` do.
    """
    wanted = {net for figure, net in NEEDS.items() if figure in metrics}
    net = open_features(features, feature_weights)
    layout = net if isinstance(net, FeatureNet) else load_feature_net()
    distance = perceptual_distance(perceptual, trunk_weights=perceptual_weights) if "perceptual" in wanted else None
    if isinstance(distance, FeatureNetDistance):
        distance = FeatureNetDistance(layout)  # at the size at which the layout is judged, so that it is seen once
    return Judges(
        features=net,
        layout=layout if "layout" in wanted else None,
        perceptual=distance,
        dino=open_dino(dino_weights, needed=needs_dino) if "dino" in wanted else None,
    )


def open_features(name: str = "auto", weights: Path | None = None) -> FeatureNet | InceptionNet:
    """The net called ``name``, on the CPU. ``auto``: Inception where its weights and package are, else EfficientNet.

    ``weights``: the file of Inception, where it does not lie in the torch hub cache.

    Raises:
        UnknownNameError: no net has this name.
        ConfigError: ``weights`` for a net that takes none, or Inception without its package.
        CheckpointError: weights that are missing or do not fit.
    """
    if name not in FEATURES:
        raise UnknownNameError("feature net", name, FEATURES)
    if weights is not None and name != "inception":
        raise ConfigError(f"weights are given for the feature net {name}", expected="them with --features inception")
    here = weights or next((path for path in map(_torch_hub, INCEPTION_FILES) if path.is_file()), None)
    if name == "efficientnet_lite0" or (name == "auto" and (here is None or _torch_fidelity(needed=False) is None)):
        return load_feature_net()
    if here is None:
        raise CheckpointError(
            f"the weights of Inception are not at {_torch_hub(INCEPTION_FILES[0])}",
            expected=f"{INCEPTION_FILES[0]} from {INCEPTION_ADDRESS}",
            hint="put it there, name it by --feature-weights FILE, or use --features efficientnet_lite0",
        )
    return InceptionNet(here)


def open_dino(weights: Path | None = None, *, needed: bool = True) -> DinoKeys | None:
    """DINO's ViT-B/8 from ``weights``, or from where timm, the hub's client or torch hub keep it; on the CPU.

    None, or with ``needed`` `CheckpointError`, where it is not on this disk.
    """
    import timm

    located = locate(DINO_HUB_FILE)
    places = [weights] if weights else [*([located.path] if located else []), _torch_hub(DINO_TORCH_FILE)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        if not (needed or weights):
            return None
        raise CheckpointError(
            f"the weights of DINO are not at {places[-1]}",
            expected=f"{DINO_TORCH_FILE} from {DINO_ADDRESS}, or {DINO_HUB_FILE.name} of {DINO_HUB_FILE.repository} in "
            f"the Hugging Face cache or a folder that {FOLDERS} names",
            hint="put it there, name it by --dino-weights FILE, or leave dino_structure out of --metrics",
        )
    with torch.device("meta"):
        trunk = timm.create_model(DINO_MODEL, pretrained=False, num_classes=0)
    state, own = load_published(path), trunk.state_dict()
    check_keys(
        str(path),
        [name for name in own if name not in state],
        [name for name in state if name not in own],
        [name for name in own if name in state and state[name].shape != own[name].shape],
    )
    trunk.load_state_dict(state, assign=True)
    return DinoKeys(trunk.float(), name=DINO_MODEL, weights_sha256=sha256(path))


def _torch_hub(file: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def _torch_fidelity(*, needed: bool = True) -> Any:
    """The module with the network. Raises `ConfigError` where the package is not installed, unless not ``needed``."""
    try:
        return importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    except ImportError as error:
        if not needed:
            return None
        raise ConfigError(
            "Inception needs the package torch-fidelity",
            expected="it, or --features efficientnet_lite0",
            hint="pip install 'cyclevar[inception]'",
        ) from error
