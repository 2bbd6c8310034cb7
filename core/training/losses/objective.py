"""The generator's objective: both directions in two batched passes (CycleVAR Eq. 12-16), or in those of each loss."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.config.training import GeneratorLoss, Order
from cyclevar.core.interfaces.callbacks import Session
from cyclevar.core.interfaces.criteria import Discriminator
from cyclevar.core.interfaces.model import Context, PictureModel, Step
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.translation import predict
from cyclevar.core.training.losses.adversarial import generator_loss
from cyclevar.core.training.losses.reconstruction import Reconstructions

Targets = tuple[int | str, int | str]


@dataclass(frozen=True)
class Pictures:
    """Real pictures of both domains, ``[B,3,H,W]`` each, and what is read of them, ``[2B,...]``."""

    a: Tensor
    b: Tensor
    context: Context


def read_pictures(model: PictureModel, a: Tensor, b: Tensor, chunk: int = 0) -> list[Pictures]:
    """The pictures with what is read of them, ``chunk`` of each domain at a time (0: all)."""
    pairs = zip(a.split(chunk or len(a)), b.split(chunk or len(b)), strict=True)
    return [Pictures(*pair, real_context(model, *pair)) for pair in pairs]


def updates(order: Order, due: Collection[str]) -> list[frozenset[str]]:
    """Which of the losses that are ``due`` each update of a generator step goes down, in their order.

    In ``turbo`` order the adversarial one is there even where its loss is not due: discriminators learn from its fakes.
    """
    if order == "joint":
        return [frozenset(due)]
    names = [name for name in ("cycle", "gan", "identity") if name == "gan" or name in due]
    return [frozenset({name}).intersection(due) for name in names]


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
    pictures: Pictures,
    targets: Targets,
    discriminators: Sequence[Discriminator],
    translation: TranslationConfig,
    reconstructions: Reconstructions,
    due: Collection[str],
    *,
    generator: GeneratorLoss = "nonsaturating",
    session: Session | None = None,
) -> Step:
    """Translate a batch of each domain as the losses that are ``due`` ask for, and score it.

    First pass: a to b, b to a (unless only the identity is due) and for the identity a to a, b to b; second pass, for
    the cycle: the fakes back. ``generator`` names the adversarial loss; ``session`` acts on both passes.
    """
    a, b, context, batch = pictures.a, pictures.b, pictures.context, len(pictures.a)
    back = [targets[0]] * batch + [targets[1]] * batch
    wanted = [] if set(due) == {"identity"} else [targets[1]] * batch + [targets[0]] * batch
    made = len(wanted)
    if "identity" in due:
        wanted = wanted + back
        context = [torch.cat([part] * (len(wanted) // (2 * batch))) for part in context]
    first = model.translate(context, model.condition(wanted), translation, clamp=False, session=session)
    images = clamped(first.image.float())
    fake_b, fake_a = images[: made // 2], images[made // 2 : made]
    losses: dict[str, Tensor] = {}
    if "gan" in due:
        judged = zip(discriminators, (fake_a, fake_b), strict=True)
        losses["gan"] = torch.stack([generator_loss(judge(fake), generator) for judge, fake in judged]).mean()
    if "cycle" in due:
        context = exact_context(model, torch.cat([fake_b, fake_a]))
        cycled = model.translate(context, model.condition(back), translation, clamp=False, session=session).image
        losses["cycle"] = reconstructions.cycle(clamped(cycled.float()), torch.cat([a, b]))
    if "identity" in due:
        losses["identity"] = reconstructions.identity(images[made:], torch.cat([a, b]))
    return Step(losses, (fake_a, fake_b), first)


def clamped(images: Tensor) -> Tensor:
    """Values in [-1,1] as they would be stored, with the gradient of the unclamped ones."""
    return images + (images.clamp(-1, 1) - images).detach()


def total(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum."""
    return torch.stack([weights[name] * value for name, value in losses.items()]).sum()


def warmup_loss(
    model: Model,
    context: Sequence[Tensor],
    targets: Targets,
    translation: TranslationConfig,
    session: Session | None = None,
) -> Tensor:
    """Relative squared error of the predicted latent (without the source's share) to the source's, for both labels."""
    context = [torch.cat([part, part]) for part in context]
    half = len(context[0]) // 2
    condition = model.backbone.condition([targets[0]] * half + [targets[1]] * half)
    out = predict(model, context, condition, translation, session)
    return (out.predicted - out.source).square().mean() / out.source.square().mean()
