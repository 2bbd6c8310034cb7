"""Training a tokenizer: autoencoder, then its code book, then both together, then an adversarial finish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cyclevar.core.config.pretraining import TokenizerPretraining
from cyclevar.core.data.batches import UnpairedBatches
from cyclevar.core.evaluation.perceptual import PerceptualDistance
from cyclevar.core.interfaces.quantizer import CodebookQuantizer
from cyclevar.core.interfaces.tokenizer import Tokenizer, View
from cyclevar.core.next_scale.pyramid import round_trip, tokenize
from cyclevar.core.training.losses.adversarial import discriminator_loss, scores
from cyclevar.core.training.optim import (
    descend,
    frozen,
    gradient_norm,
    make_optimizer,
    moving_average,
    set_learning_rate,
)
from cyclevar.core.training.state import Parts
from cyclevar.core.training.stream import Stream, micro_batches, step_random
from cyclevar.core.training.task import Task
from cyclevar.core.training.tasks.codebook import collect_targets, fit_codebook, quantizer_loss
from cyclevar.core.training.tasks.discriminators import build_discriminator


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture, both ``[B,3,H,W]`` in [-1,1] (peak 2): float ``[B]``."""
    error = (images - reference).square().mean((1, 2, 3))
    return 10 * torch.log10(4 / error.clamp_min(1e-10))


@dataclass(frozen=True)
class Pass:
    """What a part of a batch made: figures, the codes of each scale where there are any, pictures ``[B,3,H,W]``."""

    figures: dict[str, Tensor]
    codes: Sequence[Tensor]
    output: Tensor


class TokenizerTask(Task):
    """Trains a tokenizer on the pictures of both domains."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: TokenizerPretraining,
        batches: UnpairedBatches,
        validation: tuple[Tensor, Tensor],
        seed: int,
        perceptual: tuple[PerceptualDistance, PerceptualDistance],
        accelerator: Accelerator,
        *,
        fit: bool = True,
    ) -> None:
        """``fit``: make a code book before the first update with codes; otherwise the tokenizer has one already."""
        self.fit = fit
        self.config, self.seed, self.accelerator = config, seed, accelerator
        self.validation = [images.to(accelerator.device) for images in validation]
        self.pictures_per_step = config.batch_size * config.accumulate
        self.tokenizer = tokenizer.to(accelerator.device)
        self.ema = moving_average(tokenizer, config.ema)
        self.optimizer = make_optimizer(tokenizer, config.optimizer)
        self.discriminator = build_discriminator(config.discriminator, {}).to(accelerator.device)
        self.discriminator_optimizer = make_optimizer(
            self.discriminator,
            config.optimizer.model_copy(
                update={"learning_rate": config.discriminator_learning_rate, "betas": (0.5, 0.99)}
            ),
        )
        self.usage = nn.Module()
        self.coder = tokenizer.quantizer if isinstance(tokenizer.quantizer, CodebookQuantizer) else None
        if self.coder is not None:
            self.usage.register_buffer("hits", self.coder.codebook.detach().new_zeros(self.coder.logit_dim))
        self.stream, self.batches = Stream(batches, accelerator.device), batches
        self.perceptual, self.finish_perceptual = (distance.to(accelerator.device) for distance in perceptual)

    def parts(self) -> Parts:
        return {
            "tokenizer": self.tokenizer,
            "ema": self.ema,
            "optimizer": self.optimizer,
            "discriminator": self.discriminator,
            "discriminator_optimizer": self.discriminator_optimizer,
            "usage": self.usage,
        }

    def waited(self) -> float:
        return self.stream.waited()

    def pictures(self, step: int) -> Mapping[str, Tensor]:
        return self.stream.pictures(step)

    def update(self, step: int) -> Mapping[str, float]:
        config, finishing = self.config, step >= self.config.finish_from
        if step == config.autoencoder_steps and not finishing and self.fit:
            self._start_quantizing()
        rate = set_learning_rate(self.optimizer, config.optimizer, step, config.loop.steps)
        parts = [torch.cat(part) for part in micro_batches(*self.stream.batch(step), config.accumulate)]
        if step == config.finish_from:
            self.tokenizer.load_state_dict(self.ema.module.state_dict())
        made: list[Pass] = []

        def losses() -> Iterator[Tensor]:
            for images in parts:
                loss, one = self._pass(step, images)
                made.append(one)
                yield loss / config.accumulate

        norm = descend(self.accelerator, losses(), self.optimizer, config.optimizer.clip)
        images, output = torch.cat(parts), torch.cat([one.output for one in made])
        if step >= config.autoencoder_steps and not finishing:
            self._refill(step, [codes for one in made for codes in one.codes], images)
        self.ema.update_parameters(self.tokenizer)
        values = {name: torch.stack([one.figures[name] for one in made]).mean() for name in made[0].figures}
        if finishing:
            values["discriminator"] = self._update_discriminator(step, images, output)
        values |= {"gradient_norm": norm, "psnr": psnr(output.clamp(-1, 1), images).mean()}
        return {name: float(value) for name, value in values.items()} | {"learning_rate": rate}

    def _pass(self, step: int, images: Tensor) -> tuple[Tensor, Pass]:
        """The loss of pictures ``[B,3,H,W]``, and what else is to be known of them."""
        config, autocast, tokenizer = self.config, self.accelerator.autocast, self.tokenizer
        finishing = step >= config.finish_from
        with autocast(), torch.set_grad_enabled(not finishing):
            latent = tokenizer.encode(images)
        latent = latent.float()  # half precision would confuse neighbouring codes
        values: dict[str, Tensor] = {}
        loss = latent.new_zeros(())
        codes: Sequence[Tensor] = ()
        if step < config.autoencoder_steps:
            loss = 1e-3 * latent.square().mean()
            latent = latent + config.latent_noise * latent.detach().std() * torch.randn_like(latent)
            views = [View(tokenizer.unquantized(latent), images)]
        else:
            schedule = tokenizer.training_schedule(step_random(self.seed, step))
            pyramid = tokenize(tokenizer, latent, schedule)
            codes = pyramid.codes
            if not finishing:
                loss, values["latent_error"] = quantizer_loss(tokenizer, latent, codes, schedule, config.commitment)
                values["quantizer"] = loss
            with torch.set_grad_enabled(not finishing):
                views = tokenizer.views(pyramid.maps, schedule, images, None if finishing else latent)
        *smaller, output = [self._decode(view) for view in views]
        reconstruction = self._pixel_loss(output, images)
        if smaller:
            losses = [self._pixel_loss(made, view.images) for made, view in zip(smaller, views, strict=False)]
            reconstruction = reconstruction + torch.stack(losses).mean()
        weight = config.finish_perceptual if finishing else config.perceptual
        if weight and (finishing or step >= config.perceptual_from):
            with autocast():
                distance = self.finish_perceptual if finishing else self.perceptual
                values["perceptual"] = distance(output, images).mean()
            reconstruction = reconstruction + weight * values["perceptual"]
        loss = loss + reconstruction
        if step >= config.finish_from + config.adversarial_after:
            with frozen(self.discriminator), autocast():
                fooling = -scores(self.discriminator(output)).mean()
            ratio = gradient_norm(reconstruction, output) / gradient_norm(fooling, output).clamp_min(1e-8)
            loss = loss + config.adversarial * ratio.clamp_max(1e4) * fooling
            values["adversarial"] = fooling
        values["reconstruction"] = reconstruction
        return loss, Pass({name: value.detach() for name, value in values.items()}, codes, output.detach())

    def _decode(self, view: View) -> Tensor:
        with self.accelerator.autocast():
            return self.tokenizer.decode(view.latent, clamp=False).float()

    def _pixel_loss(self, output: Tensor, images: Tensor) -> Tensor:
        difference = output - images
        return difference.abs().mean() + self.config.squared_error * difference.square().mean()

    def _update_discriminator(self, step: int, images: Tensor, output: Tensor) -> Tensor:
        optimizer = self.config.optimizer.model_copy(
            update={"learning_rate": self.config.discriminator_learning_rate, "decay": "constant"}
        )
        set_learning_rate(self.discriminator_optimizer, optimizer, step - self.config.finish_from, 1)
        with self.accelerator.autocast():
            pairs = [head.chunk(2) for head in self.discriminator(torch.cat([images, output]))]
        loss = discriminator_loss([real for real, _ in pairs], [fake for _, fake in pairs])
        descend(self.accelerator, loss, self.discriminator_optimizer)
        return loss.detach()

    @torch.no_grad()
    def _start_quantizing(self) -> None:
        """Start the code book, if there is one, from the latents of some training pictures."""
        self.tokenizer.start_quantizing()
        if self.coder is not None:
            count = -(-self.config.kmeans_pictures // self.pictures_per_step)
            pictures = (torch.cat(self.batches.batch(step)).to(self.accelerator.device) for step in range(count))
            latents = torch.cat([self.tokenizer.encode(batch) for batch in pictures])
            generator = torch.Generator().manual_seed(self.seed)
            fit_codebook(self.tokenizer, self.coder, latents, self.config.kmeans_iterations, generator)
        self.ema.module.load_state_dict(self.tokenizer.state_dict())

    @torch.no_grad()
    def _refill(self, step: int, codes: Sequence[Tensor], images: Tensor) -> None:
        """Give codes that the last updates never used the values of vectors that need quantizing now."""
        if self.coder is None:
            return
        hits = self.usage.get_buffer("hits")
        hits += torch.bincount(torch.cat([part.flatten() for part in codes]), minlength=len(hits))
        due = (step - self.config.autoencoder_steps + 1) % self.config.refill_every == 0
        if due and step < 0.6 * self.config.loop.steps:
            dead = (hits == 0).nonzero().flatten()
            vectors = torch.cat(collect_targets(self.tokenizer, self.tokenizer.encode(images)))
            chosen = vectors[torch.randperm(len(vectors))[: len(dead)]]
            self.coder.codebook[dead[: len(chosen)]] = self.coder.comparable(chosen)
        if due:
            hits.zero_()

    @torch.no_grad()
    def validate(self, step: int) -> Mapping[str, float]:
        found: dict[str, float] = {}
        for name, images in zip(("a", "b"), self.validation, strict=True):
            outputs = torch.cat([self._reconstruct(part, step) for part in images.split(16)])
            found[f"psnr_{name}"] = float(psnr(outputs, images).mean())
        return found

    @torch.no_grad()
    def sample(self, step: int) -> list[Tensor]:
        count = min(12, *map(len, self.validation))
        rows = [images[:count] for images in self.validation]
        return [row for images in rows for row in (images, self._reconstruct(images, step))]

    def _reconstruct(self, images: Tensor, step: int) -> Tensor:
        """With the averaged weights; before there is a code book, without quantization."""
        tokenizer = self.ema.module
        assert isinstance(tokenizer, Tokenizer)
        if step <= self.config.autoencoder_steps:
            return tokenizer.decode(tokenizer.unquantized(tokenizer.encode(images)))
        return round_trip(tokenizer, images)
