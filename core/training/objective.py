"""The generator's objective: both directions in two batched passes (CycleVAR Eq. 12-16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclevar.core.config import GeneratorLoss, LossConfig, TranslationConfig
from cyclevar.core.interfaces import Discriminator
from cyclevar.core.model import Model
from cyclevar.core.picture_model import Context, PictureModel, Translated
from cyclevar.core.training.losses import generator_loss
from cyclevar.core.training.reconstruction import Reconstructions
from cyclevar.core.translation import predict

Targets = tuple[int | str, int | str]


@dataclass(frozen=True)
class Step:
    """What one generator step made.

    ``losses``: scalars by name (gan, cycle, identity), unweighted; ``fakes``: a batch of each domain, ``[B,3,H,W]``;
    ``first``: the first pass, rows a->b, b->a and, where asked for, a->a, b->b.
    """

    losses: dict[str, Tensor]
    fakes: tuple[Tensor, Tensor]
    first: Translated


@torch.no_grad()
def real_context(model: PictureModel, a: Tensor, b: Tensor) -> Context:
    """What is read of the real pictures of both domains, ``[2B,...]``; nothing that is trained lies behind it."""
    return exact_context(model, torch.cat([a, b]))


def exact_context(model: PictureModel, images: Tensor) -> Context:
    """What is read of images, in float32 even under autocast: half precision confuses neighbouring codes."""
    with torch.autocast(images.device.type, enabled=False):
        return model.encode(images.float())


def generator_step(
    model: PictureModel,
    a: Tensor,
    b: Tensor,
    context: Context,
    targets: Targets,
    discriminators: Sequence[Discriminator],
    translation: TranslationConfig,
    loss: LossConfig,
    reconstructions: Reconstructions,
    *,
    cycle: bool,
    identity: bool,
    generator: GeneratorLoss = "nonsaturating",
) -> Step:
    """Translate a batch of each domain there and back, and score it.

    First pass: a to b, b to a (with ``identity`` also a to a, b to b); second pass, with ``cycle``: the fakes back.
    ``context`` is `real_context`; ``generator`` names the adversarial loss.
    """
    batch = len(a)
    wanted = [targets[1]] * batch + [targets[0]] * batch
    if identity:
        wanted += [targets[0]] * batch + [targets[1]] * batch
        context = [torch.cat([part, part]) for part in context]
    first = model.translate(context, model.condition(wanted), translation, clamp=False)
    images = clamped(first.image.float())
    fake_b, fake_a = images[:batch], images[batch : 2 * batch]
    losses: dict[str, Tensor] = {}
    if loss.gan:
        judged = zip(discriminators, (fake_a, fake_b), strict=True)
        losses["gan"] = torch.stack([generator_loss(judge(fake), generator) for judge, fake in judged]).mean()
    if cycle:
        back = model.condition([targets[0]] * batch + [targets[1]] * batch)
        context = exact_context(model, torch.cat([fake_b, fake_a]))
        cycled = model.translate(context, back, translation, clamp=False).image
        losses["cycle"] = reconstructions.cycle(clamped(cycled.float()), torch.cat([a, b]))
    if identity:
        losses["identity"] = reconstructions.identity(images[2 * batch :], torch.cat([a, b]))
    return Step(losses, (fake_a, fake_b), first)


def clamped(images: Tensor) -> Tensor:
    """Values in [-1,1] as they would be stored, with the gradient of the unclamped ones."""
    return images + (images.clamp(-1, 1) - images).detach()


def total(losses: dict[str, Tensor], config: LossConfig) -> Tensor:
    """The weighted sum."""
    return torch.stack([getattr(config, name) * value for name, value in losses.items()]).sum()


def warmup_loss(model: Model, context: Sequence[Tensor], targets: Targets, translation: TranslationConfig) -> Tensor:
    """Relative squared error of the predicted latent (without the source's share) to the source's, for both labels."""
    context = [torch.cat([part, part]) for part in context]
    half = len(context[0]) // 2
    condition = model.backbone.condition([targets[0]] * half + [targets[1]] * half)
    out = predict(model, context, condition, translation)
    return (out.predicted - out.source).square().mean() / out.source.square().mean()
