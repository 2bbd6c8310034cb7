"""Optimizers, learning-rate schedule, updates and moving averages."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from cyclevar.core.config.loop import OptimizerConfig
from cyclevar.core.training.divergence import NonFiniteError
from cyclevar.core.training.fsdp import own, whole
from cyclevar.core.training.processes import Team


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> AdamW:
    """AdamW over the trainable parameters; vectors, embeddings and scalars are not decayed (VAR's recipe).

    What is frozen is unknown to it and has no state. On CPUs and CUDA each update is one fused pass over all.
    """
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    plain = [p for name, p in trainable if _is_vector(p) or _undecayed(name)]
    decayed = [p for name, p in trainable if not (_is_vector(p) or _undecayed(name))]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    fused = all(parameter.device.type in ("cpu", "cuda") for _, parameter in trainable)
    return AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused)


def _is_vector(parameter: Tensor) -> bool:
    """Whether there is more than one number along one side at most."""
    return sum(side != 1 for side in parameter.shape) < 2


def _undecayed(name: str) -> bool:
    return any(part in name for part in ("embedding", "position", "codebook", "modulation_offset", "log_scale"))


def set_learning_rate(optimizer: Optimizer, config: OptimizerConfig, step: int, steps: int) -> float:
    """Linear warm-up, then the decay that is set; returns the rate used for update ``step`` of ``steps``."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(config.warmup, 1))
    progress = min(max(step - config.warmup, 0) / max(steps - config.warmup, 1), 1.0)
    if config.decay == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * progress))
    elif config.decay == "linear":
        rate *= min(1.0, 2 - 2 * progress)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def descend(
    accelerator: Accelerator, losses: Tensor | Iterable[Tensor], optimizer: Optimizer, clip: float = math.inf
) -> Tensor:
    """One update of the optimizer's parameters down the gradient of a loss; the gradient's norm before clipping.

    Several ``losses`` are added up, each made when the graph of the one before is gone. Several processes go down the
    mean of their gradients. Raises `NonFiniteError`, and leaves the parameters as they are, where the norm is not
    finite.
    """
    optimizer.zero_grad(set_to_none=True)
    for loss in [losses] if isinstance(losses, Tensor) else losses:
        accelerator.backward(loss)
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients = [p.grad for p in parameters]
    Team(accelerator).average(gradients)
    norm = nn.utils.get_total_norm(gradients)
    found = whole(norm)
    if not found.isfinite():
        raise NonFiniteError(f"a gradient's norm is {float(found)}")
    nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    optimizer.step()
    return found


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients through ``module``, but not into those of its parameters that are trained elsewhere.

    Spectral norms, which turn their vectors with every pass of a module that trains, stay as they are.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    turning = [part for part in module.modules() if isinstance(part, ParametrizationList) and part.training]
    for parameter in trained:
        parameter.requires_grad_(False)
    for part in turning:
        part.eval()
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for part in turning:
            part.train()


def moving_average(module: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights; call its ``update_parameters`` after every update.

    After n updates the decay is at most ``(1+n)/(10+n)``, so that the average soon leaves the initial weights behind.
    """

    @torch.no_grad()
    def average(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        updates = int(count)
        weight = 1 - min(decay, (1 + updates) / (10 + updates))
        pairs = [(own(mean), own(value)) for mean, value in zip(averaged, current, strict=True)]
        pairs = [pair for pair in pairs if not pair[0].is_set_to(pair[1])]
        torch._foreach_lerp_([mean for mean, _ in pairs], [value for _, value in pairs], weight)

    return AveragedModel(module, multi_avg_fn=average, use_buffers=False)


def gradient_norm(loss: Tensor, at: Tensor) -> Tensor:
    """Norm of the gradient of ``loss`` at one tensor of its graph, which is kept."""
    [gradient] = torch.autograd.grad(loss, at, retain_graph=True)
    norm: Tensor = gradient.norm()
    return norm
