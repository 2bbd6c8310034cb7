"""A training step in two batched passes and one generator update, against eight passes and five backward passes.

    python tools/compare_passes.py [--preset tiny] [--schedule SIZES] [--batch 1] [--rounds 7] [--checkpointing]
    python tools/compare_passes.py --preset d16 --count

The other step is CycleGAN-Turbo's as its training code has it (arXiv 2403.12036): cycle, adversarial loss and identity
each have passes and an update of their own, so do fakes and reals of the discriminators, and real pictures are encoded
for every pass. Losses and networks are the same; real pictures are judged as they are.

Steps are timed in turn, in one process, by the clock and in processor time, which other work on the machine does not
lengthen (with OMP_NUM_THREADS=1). Memory is the peak of a process for each, less what a process takes that does
the same with next to no model. ``--count`` counts arithmetic and memory on tensors without memory instead.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from check_estimates import EVERY, alone, give_back_freed_memory, peak_above_nothing
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cyclevar.core.bench.config import BenchConfig, training_settings
from cyclevar.core.bench.run import Spread
from cyclevar.core.bench.work import Work, sized
from cyclevar.core.diagnostics.memory_estimate import weightless_training
from cyclevar.core.models.model import build
from cyclevar.core.training.losses import objective
from cyclevar.core.training.losses.adversarial import generator_loss
from cyclevar.core.training.optim import descend, frozen
from cyclevar.core.training.tasks.translator import TranslatorTask

WAYS = ("batched", "separate")


def separate_step(task: TranslatorTask, step: int) -> None:
    """One step of the other kind, on the batch of ``step``."""
    (a, b), model, config = task.stream.batch(step), task.model, task.config
    of_a, of_b = task.targets
    weights, losses = config.loss, task.reconstructions
    model.translates.train()

    def turned(images: Tensor, target: int | str) -> Tensor:
        context = objective.exact_context(model, images)
        condition = model.condition([target] * len(images))
        return objective.clamped(model.translate(context, condition, config.translation, clamp=False).image.float())

    def update(loss: Tensor) -> None:
        descend(task.accelerator, loss, task.optimizer, config.optimizer.clip)

    with frozen(task.discriminators):
        update(
            weights.cycle
            / 2
            * (losses.cycle(turned(turned(a, of_b), of_a), a) + losses.cycle(turned(turned(b, of_a), of_b), b))
        )
        fake_a, fake_b = turned(b, of_a), turned(a, of_b)
        judged = [judge(fake) for judge, fake in zip(task.discriminators, (fake_a, fake_b), strict=True)]
        form = config.discriminator.generator_loss
        update(weights.gan / 2 * (generator_loss(judged[0], form) + generator_loss(judged[1], form)))
        update(weights.identity / 2 * (losses.identity(turned(a, of_a), a) + losses.identity(turned(b, of_b), b)))
    task.ema.update_parameters(model.translates)
    for sign, pictures in ((1, (fake_a.detach(), fake_b.detach())), (-1, (a, b))):  # hinge, one side at a time
        scored = [judge(images) for judge, images in zip(task.discriminators, pictures, strict=True)]
        sides = [torch.stack([F.relu(1 + sign * head.float()).mean() for head in heads]).mean() for heads in scored]
        loss, clip = sides[0] + sides[1], config.discriminator.optimizer.clip
        descend(task.accelerator, loss, task.discriminator_optimizer, clip)


def step_of(way: str, task: TranslatorTask) -> Callable[[int], object]:
    return task.update if way == "batched" else lambda step: separate_step(task, step)


def prepared(config: BenchConfig) -> TranslatorTask:
    update = Work(config, plain=True).train
    assert update is not None
    task = update.__self__  # type: ignore[attr-defined]
    assert isinstance(task, TranslatorTask)
    return task


def peak(way: str, config: BenchConfig) -> int:
    """Bytes, in this process."""
    give_back_freed_memory()

    def ready(config: BenchConfig) -> Callable[[], object]:
        step = step_of(way, prepared(config))
        return lambda: step(1)

    return peak_above_nothing(ready, config)


def timed(config: BenchConfig, rounds: int) -> dict[str, Any]:
    """Both ways in turn, and their ratio."""
    task = prepared(config)
    steps = {way: step_of(way, task) for way in WAYS}
    for step in steps.values():
        step(1)
    clocks = {"seconds": time.perf_counter, "processor_seconds": time.process_time}
    taken: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in clocks}
    for number in range(1, rounds + 1):  # step 0 takes the losses one by one
        for way in WAYS if number % 2 else WAYS[::-1]:
            begun = {name: clock() for name, clock in clocks.items()}
            steps[way](number)
            for name, clock in clocks.items():
                taken[name][way].append(clock() - begun[name])
    found: dict[str, Any] = {}
    for name, times in taken.items():
        ratios = [two / one for one, two in zip(*times.values(), strict=True)]
        found[name] = {way: Spread.of(times[way]).model_dump() for way in WAYS}
        found[name]["ratio"] = Spread.of(ratios).model_dump()
    return found


def counted(config: BenchConfig) -> dict[str, Any]:
    """Floating-point operations of a step and its peak in bytes, without computing or holding anything."""
    found: dict[str, Any] = {}
    for way in WAYS:
        changes = {} if config.schedule is None else {"schedule": config.schedule}
        model = sized(build(config.backbone, config.preset, initialize=False, **changes), config.size)
        ledger, task, _ = weightless_training(model, training_settings(config))
        with ledger.running():
            step_of(way, task)(1)
        most = sum(ledger.at_peak.values())
        with ledger.running(), FlopCounterMode(display=False) as counter:  # which holds tensors for longer
            step_of(way, task)(1)
        found[way] = {"flop": counter.get_total_flops(), "peak_bytes": most}
    found["ratio"] = found["separate"]["flop"] / found["batched"]["flop"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--schedule", help="sizes of the scales, for smaller pictures")
    parser.add_argument("--batch", type=int, default=1, help="pictures of each domain")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--count", action="store_true")
    options = parser.parse_args()
    like = {"real": "raw", "pool": 0, "drawn": 0, "settings": {"augment": []}}
    training = EVERY | {"diagnose_every": 10**6, "discriminator": like, "gradient_checkpointing": options.checkpointing}
    config = BenchConfig(
        mode="train",
        preset=options.preset,
        schedule=options.schedule,
        batch=options.batch,
        device="cpu",
        dtype="float32",
        training=training,
    )
    if options.count:
        print(json.dumps(counted(config), indent=2))
        return
    print(json.dumps(timed(config, options.rounds), indent=2), flush=True)
    print(json.dumps({"peak_bytes": {way: alone(peak, way, config) for way in WAYS}}, indent=2))


if __name__ == "__main__":
    main()
