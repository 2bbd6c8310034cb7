"""A generator whose weights, gradients, moments and averages are cut up among the processes (FSDP2, arXiv 2304.11277).

Every process holds its piece of each tensor and puts the whole of a block together when it is computed. States are
written and read whole, so that any number of processes goes on with them, sharded or not.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

ALSO_FORWARD = ("condition",)
"""Methods that read weights and are called beside ``forward``."""


def shard(module: nn.Module, device: torch.device) -> None:
    """Cut up the parameters in place: those of each block together, and the rest. Empty ones stay as they are."""
    empty = {parameter for parameter in module.parameters() if not parameter.numel()}
    # it may, as nothing here writes into what a module returns
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for part in module.modules():
        if isinstance(part, nn.ModuleList):
            for block in part:
                if any(True for _ in block.parameters()):
                    fully_shard(block, mesh=mesh, ignored_params=empty)
    if not isinstance(module, nn.ModuleList):
        fully_shard(module, mesh=mesh, ignored_params=empty)
    for name in ALSO_FORWARD:
        if hasattr(module, name):
            register_fsdp_forward_method(module, name)


def freeze_empty(module: nn.Module) -> None:
    """No gradient for parameters of no numbers, which an optimizer does not take beside those that are cut up."""
    for parameter in module.parameters():
        if not parameter.numel():
            parameter.requires_grad_(False)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be cut up; then it is on the CPU. All processes must ask for it."""
    return tensor.full_tensor().detach().cpu() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """This process's piece, in the same memory; all of a tensor that is not cut up."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut_like(tensor: Tensor, example: Tensor) -> Tensor:
    """A whole tensor cut up as ``example`` is; no process asks another."""
    if not isinstance(example, DTensor) or isinstance(tensor, DTensor):
        return tensor
    here = tensor.to(example.device, example.dtype)
    return distribute_tensor(here, example.device_mesh, example.placements, src_data_rank=None)


@torch.no_grad()
def make_whole(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give a module that was cut up whole parameters with these values, by name; it cannot be trained further."""
    for place, part in module.named_modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            value = whole(values[f"{place}.{name}" if place else name]).to(parameter.device).clone()
            setattr(part, name, nn.Parameter(value, requires_grad=False))
