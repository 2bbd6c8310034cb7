"""Loss terms as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """Non-saturating ``-log D(G(x))``, the mean over the discriminator's heads of logits (Eq. 14, sign mended)."""
    return torch.stack([F.softplus(-head.float()).mean() for head in fake]).mean()


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss, the mean over heads: 0 where real logits exceed 1 and fake ones fall below -1."""
    terms = [F.relu(1 - r.float()).mean() + F.relu(1 + f.float()).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def auc(real: Tensor, fake: Tensor) -> Tensor:
    """Area under the ROC curve: the chance that a random real score exceeds a random fake one, ties counted half."""
    difference = real.flatten()[:, None] - fake.flatten()[None]
    return (difference > 0).float().mean() + 0.5 * (difference == 0).float().mean()


def scores(heads: Sequence[Tensor]) -> Tensor:
    """One score a picture ``[B]``: the mean logit of each head, averaged over heads."""
    return torch.stack([head.float().flatten(1).mean(1) for head in heads]).mean(0)
