"""Loss terms as pure functions.

Adversarial ones take a discriminator's heads of logits, larger meaning more real; heads count alike, whatever their
size. In the formulas r and f are logits of real pictures and fakes, E the mean over one head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.config.training import AdversarialLoss, GeneratorLoss

GENERATOR_TERMS: dict[GeneratorLoss, Callable[[Tensor], Tensor]] = {
    "nonsaturating": lambda f: F.softplus(-f).mean(),
    "multilevel_sigmoid": lambda f: F.softplus(-f).mean(),
    "hinge": lambda f: -f.mean(),
    "least_squares": lambda f: (f - 1).square().mean(),
}
DISCRIMINATOR_TERMS: dict[AdversarialLoss, Callable[[Tensor, Tensor], Tensor]] = {
    "hinge": lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean(),
    "multilevel_sigmoid": lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean(),
    "least_squares": lambda r, f: (r - 1).square().mean() + f.square().mean(),
}


def generator_loss(fake: Sequence[Tensor], form: GeneratorLoss = "nonsaturating") -> Tensor:
    """What the generator pays for pictures that are found out.

    - ``nonsaturating``: ``-log D(G(x)) = E[softplus(-f)]``, the mean over heads (Eq. 14, sign mended).
    - ``multilevel_sigmoid``: the same, summed over heads, as vision-aided GAN and CycleGAN-Turbo do.
    - ``hinge``: ``-E[f]``, the mean over heads (Lim and Ye, arXiv 1705.02894).
    - ``least_squares``: ``E[(f-1)^2]``, the mean over heads (Mao et al., arXiv 1611.04076, Eq. 9, twice as large).
    """
    return _over_heads([GENERATOR_TERMS[form](head.float()) for head in fake], form)


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor], form: AdversarialLoss = "hinge") -> Tensor:
    """What the discriminator pays for pictures that it takes for the other kind.

    - ``hinge``: ``E[max(0,1-r)] + E[max(0,1+f)]``, the mean over heads; 0 where r exceeds 1 and f falls below -1.
    - ``multilevel_sigmoid``: ``E[softplus(-r)] + E[softplus(f)]``, summed over heads (Eq. 15, signs mended).
    - ``least_squares``: ``E[(r-1)^2] + E[f^2]``, the mean over heads.
    """
    terms = [DISCRIMINATOR_TERMS[form](r.float(), f.float()) for r, f in zip(real, fake, strict=True)]
    return _over_heads(terms, form)


def _over_heads(terms: Sequence[Tensor], form: str) -> Tensor:
    together = torch.stack(list(terms))
    return together.sum() if form == "multilevel_sigmoid" else together.mean()


def r1_penalty(heads: Sequence[Tensor], images: Tensor) -> Tensor:
    """``E[|grad_x D(x)|^2] / 2`` at real pictures ``[B,3,H,W]`` (Mescheder et al., arXiv 1801.04406, Eq. 9).

    ``heads`` are the logits of ``images``, which need a gradient; D(x) is the score of a picture (`scores`).
    """
    [gradient] = torch.autograd.grad(scores(heads).sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2


def accuracy(real: Tensor, fake: Tensor, form: AdversarialLoss = "hinge") -> Tensor:
    """Share of scores on the right side, real above and fake below 0 (1/2 for ``least_squares``), both kinds alike."""
    middle = 0.5 if form == "least_squares" else 0.0
    return ((real > middle).float().mean() + (fake < middle).float().mean()) / 2


def absolute_difference(output: Tensor, images: Tensor) -> Tensor:
    """L1: the mean absolute difference of pictures ``[B,3,H,W]``."""
    return (output - images).abs().mean()


def colour_difference(output: Tensor, images: Tensor) -> Tensor:
    """How far colour statistics of pictures ``[B,3,H,W]`` are apart, wherever the colours are.

    The mean over pictures and channels of ``|mu(x) - mu(y)| + |sigma(x) - sigma(y)|``, with the mean mu over the pixels
    and ``sigma = sqrt(variance + 1e-6)``, whose gradient is finite for flat pictures too.
    """
    means = (output.mean((2, 3)) - images.mean((2, 3))).abs()
    deviations = [(x.var((2, 3), correction=0) + 1e-6).sqrt() for x in (output, images)]
    return (means + (deviations[0] - deviations[1]).abs()).mean()


def auc(real: Tensor, fake: Tensor) -> Tensor:
    """Area under the ROC curve: the chance that a random real score exceeds a random fake one, ties counted half."""
    difference = real.flatten()[:, None] - fake.flatten()[None]
    return (difference > 0).float().mean() + 0.5 * (difference == 0).float().mean()


def scores(heads: Sequence[Tensor]) -> Tensor:
    """One score a picture ``[B]``: the mean logit of each head, averaged over heads."""
    return torch.stack([head.float().flatten(1).mean(1) for head in heads]).mean(0)
