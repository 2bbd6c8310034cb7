"""Codebooks: the loss of a quantizer, and k-means to initialize its table."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.interfaces.quantizer import CodebookQuantizer
from cyclevar.core.interfaces.tokenizer import Tokenizer
from cyclevar.core.schedule import ScaleSchedule


def quantizer_loss(
    tokenizer: Tokenizer, latent: Tensor, codes: Sequence[Tensor], schedule: ScaleSchedule, commitment: float
) -> tuple[Tensor, Tensor]:
    """Code book and commitment loss, averaged over scales; where there is no code book, commitment alone teaches.

    Returns the loss and the relative squared error of the finest approximation.
    """
    loss, error = latent.new_zeros(()), latent.new_zeros(())
    for made, wanted in tokenizer.approximations(latent, codes, schedule):
        loss = loss + F.mse_loss(made, wanted.detach()) + commitment * F.mse_loss(made.detach(), wanted)
        error = (made - wanted).detach().square().mean() / wanted.detach().square().mean()
    return loss / len(codes), error


@torch.no_grad()
def collect_targets(tokenizer: Tokenizer, latents: Tensor) -> list[Tensor]:
    """The vectors that each scale of the default schedule has to quantize, ``[n,C]`` a scale."""
    schedule = tokenizer.default_schedule
    targets: list[list[Tensor]] = [[] for _ in schedule.sizes]
    for part in latents.split(16):
        state = tokenizer.begin(len(part), schedule)
        for found in targets:
            target = tokenizer.target(part, state)
            found.append(target.permute(0, 2, 3, 1).flatten(0, 2))
            state = tokenizer.absorb(state, tokenizer.quantizer.quantize(target).maps)
    return [torch.cat(found) for found in targets]


@torch.no_grad()
def fit_codebook(
    tokenizer: Tokenizer,
    quantizer: CodebookQuantizer,
    latents: Tensor,
    iterations: int,
    generator: torch.Generator,
) -> None:
    """K-means: Lloyd steps over the vectors of all scales, gathered anew each time since they may be residuals.

    Every scale has an equal say, however few its vectors. Empty clusters restart from random vectors.
    """
    codebook = quantizer.codebook
    size = len(codebook)
    for iteration in range(iterations):
        targets = collect_targets(tokenizer, latents) if iteration else [latents.permute(0, 2, 3, 1).flatten(0, 2)]
        weights = torch.cat([t.new_full((len(t),), len(t) ** -0.5) for t in targets])
        vectors = quantizer.comparable(torch.cat(targets))
        fresh = vectors[torch.randint(len(vectors), (size,), generator=generator)]
        if iteration == 0:
            shrink = torch.logspace(0, -1.5, size, device=codebook.device)[:, None]
            codebook.copy_(quantizer.comparable(fresh * shrink))
            continue
        nearest = torch.cat(
            [quantizer.quantize(part.T[None, :, :, None]).codes.flatten() for part in vectors.split(8192)]
        )
        mass = weights.new_zeros(size).index_add_(0, nearest, weights)
        sums = torch.zeros_like(codebook).index_add_(0, nearest, vectors * weights[:, None])
        means = sums / mass.clamp_min(1e-12)[:, None]
        codebook.copy_(quantizer.comparable(torch.where((mass > 0)[:, None], means, fresh)))
