"""Low-rank adapters (LoRA, arXiv 2106.09685) by ``peft``: what trains instead of a transformer's own weights."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from cyclevar.core.config.training import LoraConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces.backbone import Backbone


def require_peft() -> Any:
    """The package. Raises `ConfigError` where it is not installed."""
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ConfigError(
            "lora.rank is above 0, which needs the package peft",
            expected="it, or lora.rank 0 for training all weights",
            hint="pip install 'cyclevar[lora]'",
        ) from error


class Adapters:
    """Puts adapters on a backbone's linear layers, in place, until `merge` makes it plain again.

    Everything else is frozen but `Backbone.domain_parameters`: an adapter cannot invent what a new domain is.
    """

    def __init__(self, backbone: Backbone, config: LoraConfig) -> None:
        """Raises `ConfigError` without peft, and for ``config.targets`` that name nothing."""
        peft = require_peft()
        layers = target_layers(backbone, config.targets)
        backbone.requires_grad_(False)
        for parameter in backbone.domain_parameters():
            parameter.requires_grad_(True)
        told = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
        settings = peft.LoraConfig(
            r=config.rank, lora_alpha=config.alpha, target_modules=[f"0.{name}" for name in layers]
        )
        # in a list of its own, since peft takes a `config` that it finds for one of transformers
        self._lora = peft.LoraModel(nn.ModuleList([backbone]), settings, "default")
        for name in told:  # peft freezes whatever is no adapter
            backbone.get_parameter(name).requires_grad_(True)

    def merge(self) -> None:
        """Add the adapters to the weights and take them off: the backbone has its own layers and names again."""
        self._lora.merge_and_unload()


def target_layers(backbone: Backbone, targets: tuple[str, ...]) -> list[str]:
    """Names of the linear layers in those parts of the blocks that ``targets`` name.

    Raises `ConfigError` for a target that names no such part of any backbone.
    """
    names = [
        name for name, layer in backbone.named_modules() if isinstance(layer, nn.Linear) and name.startswith("blocks.")
    ]
    parts = {part for name in names for part in name.split(".")[2:]}
    usual = LoraConfig().targets  # text_attention is no mistake where blocks have none
    unknown = [target for target in targets if target not in parts and target not in usual]
    layers = [name for name in names if not {*name.split(".")[2:]}.isdisjoint(targets)]
    if unknown or not layers:
        raise ConfigError(
            f"lora.targets has {', '.join(unknown)}" if unknown else "lora.targets chooses nothing",
            expected=f"some of {', '.join(sorted(parts))}",
        )
    return layers


def share_frozen(average: AveragedModel, module: nn.Module) -> None:
    """Let the average of ``module`` use its very tensors where nothing is trained, instead of a copy."""
    for mean, current in zip(average.module.parameters(), module.parameters(), strict=True):
        if not current.requires_grad:
            mean.data = current.data


def trained(module: nn.Module) -> nn.Module:
    """A view for checkpoints: the trainable parameters and the buffers of ``module``, with ``/`` for the dots."""
    view = nn.Module()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, nn.Parameter):
            view.register_buffer(name.replace(".", "/"), tensor)
        elif tensor.requires_grad:
            view.register_parameter(name.replace(".", "/"), tensor)
    return view
