"""The state of a training as tensors: modules, optimizers, random generators."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cyclevar.core.errors import CheckpointError
from cyclevar.core.training.fsdp import cut_like, whole
from cyclevar.core.training.state_check import check_random, find_misfit

Parts = Mapping[str, nn.Module | Optimizer]
"""What a training state consists of, besides the random state."""


Facts = Mapping[str, str]
"""What decides the outcome of a training besides its settings, such as the fingerprint of the pictures."""


def pack_state(parts: Parts) -> dict[str, Tensor]:
    """All tensors of modules and optimizers, and the random state, under slash-separated names."""
    tensors = random_state()
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            tensors |= {f"{name}/{key}": whole(value) for key, value in part.state_dict().items()}
        else:
            for index, state in part.state_dict()["state"].items():
                tensors |= {f"{name}/{index}/{key}": whole(torch.as_tensor(value)) for key, value in state.items()}
    return tensors


def unpack_state(parts: Parts, tensors: Mapping[str, Tensor], *, what: str) -> None:
    """The inverse of `pack_state`. Learning rates and the like come from the settings, not from the file.

    Raises `CheckpointError`, and loads nothing, if a name, shape or dtype is not what ``parts`` have.
    """
    if misfit := find_misfit(parts, tensors):
        raise _misfit(what, *misfit)
    check_random(tensors)
    for name, part in parts.items():
        own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
        try:
            if isinstance(part, nn.Module):
                now = part.state_dict()
                part.load_state_dict({key: cut_like(value, now.get(key, value)) for key, value in own.items()})
            else:
                parameters = [one for group in part.param_groups for one in group["params"]]
                state: dict[int, dict[str, Tensor]] = {}
                for key, value in own.items():
                    index, field = key.split("/")
                    example = parameters[int(index)] if value.ndim else value
                    state.setdefault(int(index), {})[field] = cut_like(value, example)
                part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})
        except (RuntimeError, ValueError, LookupError) as error:
            raise _misfit(what, name, " ".join(str(error).splitlines()[:3])) from error
    set_random_state(tensors)


def _misfit(what: str, part: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{what} does not fit this run in its part {part!r} ({reason})",
        hint="resume with the settings of that run, or start a new one with --out",
    )


def random_state() -> dict[str, Tensor]:
    """The state of the random generators, of the CPU and of the GPU in use."""
    tensors = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    return tensors


def set_random_state(tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `random_state`; other tensors are passed over."""
    torch.set_rng_state(tensors["random/cpu"])
    if "random/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random/cuda"])
