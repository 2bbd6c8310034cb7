"""Training a translator: latent warm-up, discriminator pre-training, then the adversarial stage.

The stages follow one step counter, so that a run resumes wherever it stopped::

    0 .. warmup.steps                    the predicted latent learns to be the source's
    .. until the discriminators can tell only they learn, from round trips against warm outputs
    .. loop.steps                        generator and discriminators in turn
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cyclevar.core.config.training import TrainConfig
from cyclevar.core.data.batches import UnpairedBatches, stack
from cyclevar.core.data.sources import Part
from cyclevar.core.errors import PluginError
from cyclevar.core.evaluation.evaluate import pooled_features, quick_kid_rt
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.interfaces.criteria import Discriminator
from cyclevar.core.interfaces.model import PictureModel, Step
from cyclevar.core.models.model import Model
from cyclevar.core.networks.autoencoder import recompute
from cyclevar.core.networks.feature_net import FeatureNet
from cyclevar.core.next_scale.session import open_session
from cyclevar.core.next_scale.translation import Prediction
from cyclevar.core.runtime.batch_random import shared
from cyclevar.core.training.divergence import Streak
from cyclevar.core.training.fsdp import freeze_empty, make_whole, shard
from cyclevar.core.training.lora import Adapters, share_frozen, trained
from cyclevar.core.training.losses import objective
from cyclevar.core.training.losses.adversarial import accuracy, auc, discriminator_loss, r1_penalty, scores
from cyclevar.core.training.losses.reconstruction import Reconstructions
from cyclevar.core.training.optim import descend, frozen, make_optimizer, moving_average, set_learning_rate
from cyclevar.core.training.processes import Team
from cyclevar.core.training.state import Parts
from cyclevar.core.training.stream import Stream
from cyclevar.core.training.task import Task
from cyclevar.core.training.tasks.discriminators import build_discriminator
from cyclevar.core.training.tasks.image_pool import ImagePool

REFERENCE = 600
"""Training pictures of each domain that KID-rt compares with."""

OWN_LOSSES = ("gan", "cycle", "identity")
"""Losses of the generator that the settings weigh."""

BLIND = 1e-3
"""Gap of mean scores, real to fake, below which a discriminator tells nothing apart, if it stays there."""

PATIENCE = 300
"""Adversarial steps before a copying generator is remarked upon: the warm-up teaches it to copy."""


class TranslatorTask(Task):
    """Trains the part of a model that translates, or adapters of it, between two domains; the rest is frozen.

    Of a model with tokens that part is the backbone; one without them is trained as a whole, and has no warm-up.
    """

    def __init__(
        self,
        model: PictureModel,
        config: TrainConfig,
        batches: UnpairedBatches,
        validation: tuple[Tensor, Tensor],
        reference: Part,
        targets: objective.Targets,
        reconstructions: Reconstructions,
        net: FeatureNet,
        accelerator: Accelerator,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``note`` is told once when the discriminators overpower the generator."""
        device = accelerator.device
        self.model, self.config, self.targets, self.accelerator = model.to(device), config, targets, accelerator
        self.validation = [images.to(device) for images in validation]
        self.reference, self.net, self.note = reference, net.to(device), note
        self.reconstructions = Reconstructions(*(one.to(device) for one in reconstructions))
        self.team = Team(accelerator)
        self.pictures_per_step = 2 * config.batch_size * config.accumulate
        learner, self.adapters = model.translates, None
        if isinstance(model, Model):
            model.tokenizer.requires_grad_(False).eval()
            model.backbone.gradient_checkpointing = config.gradient_checkpointing
            recompute(model.tokenizer, config.gradient_checkpointing)
            if config.lora.rank:
                self.adapters = Adapters(model.backbone, config.lora)
        self.ema = moving_average(learner, config.ema)
        if self.adapters:
            share_frozen(self.ema, learner)
        self.sharded = config.sharded and not self.team.alone
        if self.sharded:
            for module in (learner, self.ema.module):
                shard(module, device)
        self.optimizer = make_optimizer(learner, config.optimizer)
        if self.sharded:
            freeze_empty(learner)
        settings = config.discriminator
        self.discriminators = nn.ModuleList(build_discriminator(settings.name, settings.settings) for _ in range(2))
        self.discriminators.to(device)
        self.discriminator_optimizer = make_optimizer(self.discriminators, settings.optimizer)
        self.pools = nn.ModuleList(ImagePool(settings.pool, model.image_size) for _ in range(4)).to(device)
        self.progress = nn.Module()
        self.progress.register_buffer("adversarial_since", torch.tensor(-1))
        self.stream = Stream(batches, device)
        self.session = open_session("train", model, config)
        self.added_losses = self._added_losses()
        """Of plugins: name -> weight and function of what a step made."""
        self.weights = {name: getattr(config.loss, name) for name in OWN_LOSSES}
        self.weights |= {name: weight for name, (weight, _) in self.added_losses.items()}
        self.overpowering = Streak(settings.alarm_updates)
        self.blind = {domain: Streak(settings.alarm_updates) for domain in "ab"}
        """Adversarial steps in a row in which discriminators were nearly always right, or told nothing apart."""

    def _added_losses(self) -> dict[str, tuple[float, Callable[[Step], Tensor]]]:
        found: dict[str, tuple[float, Callable[[Step], Tensor]]] = {}
        for plugin, losses in get_manager().gather("cyclevar_losses", config=self.config, model=self.model):
            if taken := sorted({*OWN_LOSSES, *found}.intersection(losses)):
                raise PluginError(f"plugin {plugin} adds a loss {taken[0]!r}, which is there already")
            found |= losses
        return found

    @cached_property
    def references(self) -> list[Tensor]:
        """Pooled features of the round trips of training pictures of each domain."""
        size = self.model.image_size[0]
        return [pooled_features(self.net, stack(part, size, REFERENCE), self._round_trip) for part in self.reference]

    @cached_property
    @torch.no_grad()
    def validation_trips(self) -> list[Tensor]:
        """Round trips of the validation pictures of each domain."""
        return [torch.cat([self._round_trip(part) for part in images.split(16)]) for images in self.validation]

    def _round_trip(self, images: Tensor) -> Tensor:
        return self.model.round_trip(images.to(self.accelerator.device))

    def parts(self) -> Parts:
        learner, ema = self.model.translates, self.ema
        return {
            "backbone" if isinstance(self.model, Model) else "networks": trained(learner) if self.adapters else learner,
            "ema": trained(ema) if self.adapters else ema,
            "optimizer": self.optimizer,
            "discriminators": self.discriminators,
            "discriminator_optimizer": self.discriminator_optimizer,
            "pools": self.pools,
            "progress": self.progress,
        }

    def finished(self, *, copied: bool = False) -> PictureModel:
        """The model with the averaged weights, adapters merged; unless ``copied``, nothing can be trained further."""
        model, adapters = self.model, self.adapters
        if self.sharded:
            make_whole(model.translates, self.ema.module.state_dict())
            return model
        if copied:
            model, adapters = copy.deepcopy((model, adapters))
        model.translates.load_state_dict(self.ema.module.state_dict())
        if adapters:
            adapters.merge()
        return model

    def frozen_judge(self) -> str:
        """What the discriminators look with, where it came from a file."""
        judge = self.discriminators[0]
        return judge.frozen if isinstance(judge, Discriminator) else ""

    def pictures(self, step: int) -> Mapping[str, Tensor]:
        return self.stream.pictures(step)

    def waited(self) -> float:
        return self.stream.waited()

    def update(self, step: int) -> Mapping[str, float]:
        since = self.progress.get_buffer("adversarial_since")
        a, b = self.stream.batch(step)
        self.model.translates.train()
        if step < self.config.warmup.steps:
            return self._warm_up(step, a, b)
        if since < 0:
            pretrained = step - self.config.warmup.steps
            if pretrained < self.config.discriminator.pretrain_steps:
                values = self._pretrain_discriminators(pretrained, a, b)
                if values.get("auc", 0.0) >= self.config.discriminator.pretrain_auc:
                    since.fill_(step + 1)
                return values
            since.fill_(step)
        return self._adversarial(step, int(since), a, b)

    def _warm_up(self, step: int, a: Tensor, b: Tensor) -> dict[str, float]:
        config = self.config.optimizer.model_copy(update={"learning_rate": self.config.warmup.learning_rate})
        rate = set_learning_rate(self.optimizer, config, step, self.config.warmup.steps)
        model = self.model
        assert isinstance(model, Model)
        chunks = objective.read_pictures(model, a, b, self.config.pictures_at_once)
        power = [len(one.a) * model.tokenizer.as_latent(one.context[-1]).square().mean() for one in chunks]
        whole = self.team.mean(torch.stack(power).sum())  # the loss is relative to the power of the whole batch
        shares = torch.stack(power) / whole
        found: list[Tensor] = []

        def losses() -> Iterator[Tensor]:
            for pictures, share in zip(chunks, shares, strict=True):
                context = pictures.context
                with self._shared(pictures):
                    with self.accelerator.autocast():
                        loss = objective.warmup_loss(
                            model, context, self.targets, self.config.translation, self.session
                        )
                    found.append((share * loss).detach())
                    yield share * loss

        norm = self._descend(losses())
        self.ema.update_parameters(model.translates)
        return {"warmup_error": float(torch.stack(found).sum()), "gradient_norm": norm, "learning_rate": rate}

    def _descend(self, losses: Tensor | Iterable[Tensor]) -> float:
        """One update of the generator; the gradient's norm before clipping."""
        return float(descend(self.accelerator, losses, self.optimizer, self.config.optimizer.clip))

    def _pretrain_discriminators(self, pretrained: int, a: Tensor, b: Tensor) -> dict[str, float]:
        with torch.no_grad():
            chunks = objective.read_pictures(self.model, a, b, self.config.pictures_at_once)
            fakes = []
            for pictures in chunks:
                with self._shared(pictures):
                    fakes.append(self._generate(pictures, ()).fakes)
        values = self._update_discriminators(chunks, fakes, pretrained)
        if (pretrained + 1) % 20 == 0:
            values["auc"] = self._held_out_auc()
        return values

    def _shared(self, pictures: objective.Pictures) -> contextlib.AbstractContextManager[None]:
        """Random numbers for these pictures on their way through the generator, and on the way back of a gradient."""
        return shared(self.team.blocks(len(pictures.a)))

    def _generate(self, pictures: objective.Pictures, due: Collection[str]) -> Step:
        judges = [judge for judge in self.discriminators if isinstance(judge, Discriminator)]
        with frozen(self.discriminators), self.accelerator.autocast():
            made = objective.generator_step(
                self.model,
                pictures,
                self.targets,
                judges,
                self.config.translation,
                self.reconstructions,
                due,
                generator=self.config.discriminator.generator_loss,
                session=self.session,
            )
            if torch.is_grad_enabled() and (self.config.objective.order == "joint" or set(due) <= {"gan"}):
                made.losses.update({name: function(made) for name, (_, function) in self.added_losses.items()})
        return made

    def _adversarial(self, step: int, since: int, a: Tensor, b: Tensor) -> dict[str, float]:
        config = self.config
        rate = set_learning_rate(self.optimizer, config.optimizer, step - since, config.loop.steps - since)
        chunks = objective.read_pictures(self.model, a, b, config.pictures_at_once)
        every = {"gan": 1, "cycle": config.loss.cycle_every, "identity": config.loss.identity_every}
        due = [name for name, steps in every.items() if getattr(config.loss, name) and (step - since) % steps == 0]
        diagnosed = (step - since) % config.diagnose_every == 0
        values: dict[str, float] = {}
        fakes: list[tuple[Tensor, Tensor]] = []
        for losses in objective.updates(config.objective.order, due):
            figures, made = self._update_generator(chunks, losses, diagnosed=diagnosed)
            norm = max(values.get("gradient_norm", 0.0), figures["gradient_norm"])
            values = figures | values | {"gradient_norm": norm}
            if losses != {"identity"}:
                fakes = made
        self.ema.update_parameters(self.model.translates)
        for update in range(config.discriminator.updates):
            values |= self._update_discriminators(chunks, fakes, step * config.discriminator.updates + update)
        self._watch(step, values)
        return values | {"learning_rate": rate}

    def _update_generator(
        self, chunks: Sequence[objective.Pictures], due: Collection[str], *, diagnosed: bool
    ) -> tuple[dict[str, float], list[tuple[Tensor, Tensor]]]:
        """One update down the losses that are ``due``, chunk by chunk; figures of the whole, and each chunk's fakes."""
        count = sum(len(pictures.a) for pictures in chunks)
        figures: dict[str, float] = {}
        fakes: list[tuple[Tensor, Tensor]] = []

        def losses() -> Iterator[Tensor]:
            for pictures in chunks:
                share = len(pictures.a) / count
                with self._shared(pictures):
                    made = self._generate(pictures, due)
                found = {f"loss/{name}": float(value.detach()) for name, value in made.losses.items()}
                if diagnosed:
                    found |= self._diagnose(made)
                for name, value in found.items():
                    figures[name] = figures.get(name, 0.0) + share * value
                fakes.append((made.fakes[0].detach().float(), made.fakes[1].detach().float()))
                if not made.losses:
                    continue
                pulls: dict[str, float] = {}
                with self._shared(pictures):  # blocks that are computed again draw again
                    if diagnosed:
                        loss = self._pull(made, share, pulls)
                    else:
                        loss = share * objective.total(made.losses, self.weights)
                    del made  # what the backward pass does not need is gone before it begins
                    yield loss
                for name, value in pulls.items():
                    figures[name] = math.hypot(figures.get(name, 0.0), value)

        norm = self._descend(losses())
        for name in figures:
            if name.startswith("gradient/"):
                figures[name] = self.team.root_mean_square(figures[name])
        return figures | {"gradient_norm": norm}, fakes

    def _watch(self, step: int, values: Mapping[str, float]) -> None:
        """Raise the alarm, once each, where discriminators have been nearly always right for long, or blind."""
        settings = self.config.discriminator
        right = (values["discriminator/accuracy_a"] + values["discriminator/accuracy_b"]) / 2
        if self.overpowering.completed_by(right > settings.alarm_accuracy):
            self.note(
                f"step {step + 1}: the discriminator overpowers the generator (accuracy above "
                f"{settings.alarm_accuracy:.0%} for {settings.alarm_updates} steps): lower "
                "discriminator.optimizer.learning_rate, set discriminator.r1, or add augmentation"
            )
        for domain, streak in self.blind.items():
            if streak.completed_by(abs(values[f"discriminator/gap_{domain}"]) < BLIND):
                self.note(
                    f"step {step + 1}: the discriminator of domain {domain} has collapsed (real pictures and fakes "
                    f"score alike within {BLIND} for {settings.alarm_updates} steps): lower "
                    "discriminator.optimizer.learning_rate, raise discriminator.updates, or choose another one"
                )

    @torch.no_grad()
    def _diagnose(self, made: Step) -> dict[str, float]:
        """With tokens, the entropy of the codes and the strength of the output."""
        first, model = made.first, self.model
        if not (isinstance(first, Prediction) and isinstance(model, Model)):
            return {}
        entropy = model.tokenizer.quantizer.entropy(first.logits, self.config.translation.temperature)
        strength = first.predicted.std() / first.source.std()
        return {"code_entropy": float(entropy.mean()), "output_strength": float(strength)}

    def _pull(self, made: Step, share: float, norms: dict[str, float]) -> Tensor:
        """Go down the losses one by one, and leave the last one to the caller.

        ``norms`` gets each weighted loss's gradient norm at the predicted latents (without tokens: at the pictures). A
        whole backward pass for each frees what `gradient_checkpointing` computes again; one to the latents would not.
        """
        at = made.first.predicted if isinstance(made.first, Prediction) else made.first.image
        names = iter([f"gradient/{name}" for name in made.losses])
        at.register_hook(lambda gradient: norms.update({next(names): float(gradient.norm())}))
        losses: list[Tensor] = [share * self.weights[name] * value for name, value in made.losses.items()]
        for loss in losses[:-1]:
            self.accelerator.backward(loss, retain_graph=True)
        return losses[-1]

    def _update_discriminators(
        self, chunks: Sequence[objective.Pictures], fakes: Sequence[tuple[Tensor, Tensor]], update: int
    ) -> dict[str, float]:
        """``update`` counts those of a stage: it decides when the R1 penalty is due."""
        settings = self.config.discriminator
        set_learning_rate(self.discriminator_optimizer, settings.optimizer, settings.optimizer.warmup, 1)
        reals: Sequence[tuple[Tensor, ...]] = [(pictures.a, pictures.b) for pictures in chunks]
        if settings.real == "roundtrip":
            with torch.no_grad(), self.accelerator.autocast():
                reals = [self.model.reconstruct(one.context).float().split(len(one.a)) for one in chunks]
        loss = torch.zeros((), device=self.accelerator.device)
        values: dict[str, float] = {}
        for domain, judge in enumerate(self.discriminators):
            real = self._pooled(2 * domain, torch.cat([pair[domain] for pair in reals]), settings.drawn)
            fake = self._pooled(2 * domain + 1, torch.cat([pair[domain] for pair in fakes]), settings.drawn)
            share = self.team.weight(len(real))  # of what all processes hold each judges its part
            both = shared(self.team.parts([len(real), len(fake)]))
            alone = shared(self.team.parts([len(real)]))
            real, fake = (images[self.team.part(len(images))] for images in (real, fake))
            with both, self.accelerator.autocast():
                heads = [head.split([len(real), len(fake)]) for head in judge(torch.cat([real, fake]))]
            on_real, on_fake = [pair[0] for pair in heads], [pair[1] for pair in heads]
            loss = loss + share * discriminator_loss(on_real, on_fake, settings.loss)
            if settings.r1 and update % settings.r1_every == 0:
                with alone:
                    penalty = share * self._r1(judge, real)
                loss = loss + settings.r1 * settings.r1_every * penalty
                values[f"discriminator/r1_{'ab'[domain]}"] = float(penalty.detach())
            score = scores(on_real).detach(), scores(on_fake).detach()
            values[f"discriminator/gap_{'ab'[domain]}"] = share * float(score[0].mean() - score[1].mean())
            values[f"discriminator/accuracy_{'ab'[domain]}"] = share * float(accuracy(*score, settings.loss))
        descend(self.accelerator, loss, self.discriminator_optimizer, settings.optimizer.clip)
        return values | {"loss/discriminator": float(loss.detach()) / 2}

    def _r1(self, judge: nn.Module, real: Tensor) -> Tensor:
        """In float32, by kernels that can be differentiated twice."""
        images = real.detach().requires_grad_()
        with torch.autocast(images.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
            return r1_penalty(judge(images), images)

    def _pooled(self, index: int, images: Tensor, drawn: int) -> Tensor:
        pool = self.pools[index]
        assert isinstance(pool, ImagePool)
        return pool.exchange(self.team.gather(images), drawn)

    @torch.no_grad()
    def _held_out_auc(self) -> float:
        """How well the discriminators tell validation round trips from translations: the mean of both."""
        reals = self.validation_trips if self.config.discriminator.real == "roundtrip" else self.validation
        found = []
        for domain, judge in enumerate(self.discriminators):
            fakes = self._translate(self.model.translates, self.validation[1 - domain][:32], self.targets[domain])
            found.append(auc(scores(judge(reals[domain][:32])), scores(judge(fakes))))
        return float(self.team.mean(torch.stack(found).mean()))  # so that the stage ends in all processes at once

    def _translate(self, learner: nn.Module, images: Tensor, target: int | str) -> Tensor:
        model = self.model.replaced(learner).eval()
        outputs = []
        for part in images.split(16):
            condition = model.condition([target] * len(part))
            made = model.translate(model.encode(part), condition, self.config.translation, session=self.session)
            outputs.append(made.image)
        return torch.cat(outputs)

    @torch.no_grad()
    def validate(self, step: int) -> Mapping[str, float]:
        """KID-rt of both directions, and how far translations and identity outputs are from the mere round trip."""
        learner = self.ema.module
        found: dict[str, float] = {}
        for domain, direction in ((1, "ab"), (0, "ba")):
            source, trip = self.validation[1 - domain], self.validation_trips[1 - domain]
            outputs = self._translate(learner, source, self.targets[domain])
            same = self._translate(learner, source[:32], self.targets[1 - domain])
            found[f"kid_rt_{direction}"] = quick_kid_rt(self.net, outputs, self.references[domain]).value
            found[f"change_{direction}"] = float((outputs - trip).abs().mean())
            found[f"identity_change_{direction}"] = float((same - trip[:32]).abs().mean())
        return found

    def score(self, found: Mapping[str, float]) -> float | None:
        """The mean KID-rt of both directions, once the generator learns to translate: before, it only copies."""
        if self.progress.get_buffer("adversarial_since") < 0:
            return None
        return (found["kid_rt_ab"] + found["kid_rt_ba"]) / 2

    def averaged(self) -> Parts:
        return {"ema": self.parts()["ema"]}

    def remarks(self, step: int, found: Mapping[str, float]) -> Sequence[str]:
        since = int(self.progress.get_buffer("adversarial_since"))
        if 0 <= since <= step - PATIENCE and _merely_copies(found):
            return ["the generator merely copies its input: raise loss.gan, or lower loss.cycle and loss.identity"]
        return []

    @torch.no_grad()
    def sample(self, step: int) -> list[Tensor]:
        """Both directions: source, translation, cycle, tokenizer round trip."""
        learner, count = self.ema.module, min(12, *map(len, self.validation))
        rows: list[Tensor] = []
        for domain in (1, 0):
            source = self.validation[1 - domain][:count]
            there = self._translate(learner, source, self.targets[domain])
            back = self._translate(learner, there, self.targets[1 - domain])
            rows += [source, there, back, self.validation_trips[1 - domain][:count]]
        return rows


def _merely_copies(found: Mapping[str, float]) -> bool:
    """Both directions hardly differ from the round trip, or no more than the identity outputs do."""
    return all(
        found[f"change_{d}"] < 0.04 or found[f"change_{d}"] < 1.1 * found[f"identity_change_{d}"] for d in ("ab", "ba")
    )
