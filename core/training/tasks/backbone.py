"""Pre-training a backbone: next-scale prediction of the tokenizer's codes, with domain labels (VAR Sec. 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from cyclevar.core.config.pretraining import BackbonePretraining
from cyclevar.core.data.batches import UnpairedBatches
from cyclevar.core.interfaces.backbone import Backbone
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.generation import generate
from cyclevar.core.next_scale.pyramid import teacher_inputs, tokenize
from cyclevar.core.runtime.batch_random import draw, shared
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.core.training.optim import descend, make_optimizer, moving_average, set_learning_rate
from cyclevar.core.training.processes import Team
from cyclevar.core.training.state import Parts
from cyclevar.core.training.stream import Stream, micro_batches, step_random
from cyclevar.core.training.task import Task


class BackboneTask(Task):
    """Trains the transformer of a model on the codes of both domains; the tokenizer stays as it is."""

    def __init__(
        self,
        model: Model,
        config: BackbonePretraining,
        batches: UnpairedBatches,
        validation: tuple[Tensor, Tensor],
        domains: tuple[str, str],
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        self.model, self.config, self.domains, self.accelerator = model, config, domains, accelerator
        self.seed, self.team = seed, Team(accelerator)
        self.validation = [images.to(accelerator.device) for images in validation]
        self.pictures_per_step = config.batch_size * config.accumulate
        model.to(accelerator.device)
        model.tokenizer.requires_grad_(False).eval()
        self.ema = moving_average(model.backbone, config.ema)
        self.optimizer = make_optimizer(model.backbone, config.optimizer)
        self.stream = Stream(batches, accelerator.device)

    def parts(self) -> Parts:
        return {"backbone": self.model.backbone, "ema": self.ema, "optimizer": self.optimizer}

    def pictures(self, step: int) -> Mapping[str, Tensor]:
        return self.stream.pictures(step)

    def waited(self) -> float:
        return self.stream.waited()

    def update(self, step: int) -> Mapping[str, float]:
        config, backbone = self.config, self.model.backbone
        rate = set_learning_rate(self.optimizer, config.optimizer, step, config.loop.steps)
        a, b = self.stream.batch(step)
        backbone.train()
        random = step_random(self.seed, step)
        schedule = backbone.training_schedule(self.model.schedule, random)
        found: list[Tensor] = []

        def losses() -> Iterator[Tensor]:
            for part in micro_batches(a, b, config.accumulate):
                targets = [name for name, images in zip(self.domains, part, strict=True) for _ in images]
                loss = self._loss(backbone, torch.cat(part), targets, schedule, config.condition_dropout, random)
                found.append(loss.detach())
                yield loss / config.accumulate

        with shared(self.team.blocks(len(a) // config.accumulate)):
            norm = descend(self.accelerator, losses(), self.optimizer, config.optimizer.clip)
        self.ema.update_parameters(backbone)
        return {"loss": float(torch.stack(found).mean()), "gradient_norm": float(norm), "learning_rate": rate}

    def _loss(
        self,
        backbone: nn.Module,
        images: Tensor,
        targets: Sequence[str],
        schedule: ScaleSchedule,
        dropout: float = 0.0,
        corrupt: Random | None = None,
    ) -> Tensor:
        """Mean negative log-likelihood a token, in nats."""
        assert isinstance(backbone, Backbone)
        tokenizer = self.model.tokenizer
        with torch.no_grad():
            pyramid = tokenize(tokenizer, tokenizer.encode(images), schedule, corrupt=corrupt)
            inputs = teacher_inputs(tokenizer, pyramid.maps, schedule)
        condition = backbone.condition(targets)
        if dropout:
            chances = draw(len(images), lambda count: torch.rand(count, device=images.device))
            condition = condition.dropped(chances < dropout)
        with self.accelerator.autocast():
            logits = backbone(inputs, condition, schedule)
        codes = torch.cat([part.flatten(1, 2) for part in pyramid.codes], dim=1)
        return tokenizer.quantizer.nll(logits, codes).mean()

    @torch.no_grad()
    def validate(self, step: int) -> Mapping[str, float]:
        """The loss with the right label, and what the right label is worth: the loss with the wrong one minus it."""
        backbone = self.ema.module.eval()
        losses = {True: 0.0, False: 0.0}
        for right in losses:
            for domain, images in enumerate(self.validation):
                name = self.domains[domain if right else 1 - domain]
                parts = [
                    (self._loss(backbone, part, [name] * len(part), self.model.schedule), len(part))
                    for part in images.split(16)
                ]
                losses[right] += sum(float(loss) * n for loss, n in parts) / len(images) / 2
        return {"loss": losses[True], "label_worth": losses[False] - losses[True]}

    @torch.no_grad()
    def sample(self, step: int) -> list[Tensor]:
        backbone = self.ema.module.eval()
        assert isinstance(backbone, Backbone)
        model = Model(self.model.family, self.model.config, self.model.tokenizer, backbone, self.model.schedule)
        rows = []
        for name in self.domains:
            condition = backbone.condition([name] * 8)
            rows.append(generate(model, condition).image)
        return rows
