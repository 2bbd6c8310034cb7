"""Sampling new pictures: the recursion run forward from the start token (VAR Sec. 3.2 and 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclevar.core.cache import KeyValueCache
from cyclevar.core.config import SamplingConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces import Condition, ScaleState
from cyclevar.core.model import Model
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.core.settings import validate

Edit = Callable[[ScaleState, Tensor], Tensor]
"""Given what was built so far and the codes drawn for the next scale, the codes to go on with: known ones perhaps."""

NEAR = 0.15
"""How far, as a logarithm, a picture's shape may be from the wanted one: whole cells allow few shapes."""


@dataclass(frozen=True)
class Generation:
    """Generated pictures.

    ``image``: float ``[B,3,H,W]`` in [-1,1]; ``codes``: one tensor a scale; ``logits``: float32 ``[B,L,logit_dim]``
    after guidance and temperature, before any filter.
    """

    image: Tensor
    codes: Sequence[Tensor]
    logits: Tensor


@torch.no_grad()
def generate(
    model: Model,
    condition: Condition,
    *,
    schedule: ScaleSchedule | None = None,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    edit: Edit | None = None,
    **settings: Any,
) -> Generation:
    """Draw one picture a row of ``condition``, coarse to fine.

    ``schedule``: another one than the model's, where the family can. ``samples`` numbers the pictures (0, 1, ... if
    not given): the noise of picture ``samples[b]`` follows from that number, ``seed`` and the scale alone, so that a
    picture does not change with its neighbours. ``edit`` may put known codes in the place of drawn ones. ``settings``
    change the model's `SamplingConfig`: ``guidance``, ``temperature``, ``top_k`` (1 is greedy), ``top_p`` and others.

    With guidance at any scale the batch runs doubled.
    """
    tokenizer, backbone = model.tokenizer, model.backbone
    schedule = schedule or model.schedule
    samples = range(len(condition)) if samples is None else samples
    sampling = sampling_config(model, **settings)
    strengths, temperatures = _per_scale(sampling, "guidance", schedule), _per_scale(sampling, "temperature", schedule)
    top_ks, top_ps = _per_scale(sampling, "top_k", schedule), _per_scale(sampling, "top_p", schedule)
    guided = any(strength != sampling.no_guidance for strength in strengths)
    cache = KeyValueCache(backbone.depth, schedule)
    null = backbone.prepared(condition.null) if guided and condition.null is not None else None
    condition = replace(backbone.prepared(condition), null=null)
    state = tokenizer.begin(len(condition), schedule)
    all_codes, all_logits = [], []
    for scale, size in enumerate(schedule.sizes):
        feature = tokenizer.next_input(state)
        if guided:
            logits = backbone.guided(feature, condition, schedule, scale, cache, strengths[scale], sampling)
        else:
            logits = backbone([feature], condition, schedule, first=scale, cache=cache)
        logits = logits / temperatures[scale]
        noise = [noise_generator(seed, sample, scale) for sample in samples]
        codes = tokenizer.quantizer.sample(logits, int(top_ks[scale]), top_ps[scale], noise).unflatten(1, size)
        if edit is not None:
            codes = edit(state, codes)
        state = tokenizer.absorb(state, tokenizer.quantizer.lookup(codes).movedim(-1, 1))
        all_codes.append(codes)
        all_logits.append(logits)
    return Generation(tokenizer.decode(tokenizer.latent(state)), all_codes, torch.cat(all_logits, dim=1))


def sampling_config(model: Model, **settings: Any) -> SamplingConfig:
    """The model's sampling settings with ``settings`` changed. Raises `ConfigError` for a wrong one."""
    own = model.config.sampling
    return validate(type(own), own.model_dump() | settings)


def noise_generator(seed: int, sample: int, scale: int) -> torch.Generator:
    """The random numbers of one picture at one scale, the same on every device."""
    [state] = np.random.SeedSequence((seed, sample, scale)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state))


def _per_scale(sampling: SamplingConfig, name: str, schedule: ScaleSchedule) -> Sequence[float]:
    value: float | Sequence[float] = getattr(sampling, name)
    values = [value] * len(schedule) if isinstance(value, int | float) else value
    if len(values) != len(schedule):
        raise ConfigError(
            f"{name} has {len(values)} values", expected=f"one, or {len(schedule)}: one a scale of {schedule}"
        )
    return values


def generate_each(
    model: Model,
    targets: Sequence[int | str],
    count: int = 1,
    *,
    batch_size: int = 8,
    schedule: ScaleSchedule | None = None,
    seed: int = 0,
    **settings: Any,
) -> Iterator[tuple[int, int, Tensor]]:
    """Draw ``count`` pictures of every target, a batch at a time.

    Yields the target's position in ``targets``, the picture's number from 0 on, which keys its noise, and the picture
    ``[3,H,W]`` in [-1,1]. So a picture depends on its target, its number and ``seed``, whatever else is drawn.
    """
    every = [(position, number) for position in range(len(targets)) for number in range(count)]
    for some in (every[begin : begin + batch_size] for begin in range(0, len(every), batch_size)):
        condition = model.backbone.condition([targets[position] for position, _ in some])
        samples = [number for _, number in some]
        drawn = generate(model, condition, schedule=schedule, seed=seed, samples=samples, **settings)
        yield from ((*which, image) for which, image in zip(some, drawn.image, strict=True))


def schedule_for(model: Model, size: tuple[int, int]) -> ScaleSchedule:
    """The schedule for pictures of ``size`` (height, width) pixels.

    Raises `ConfigError` naming the nearest size where the model cannot make this one.
    """
    stride = model.tokenizer.stride
    height, width = (max(1, round(side / stride)) for side in size)
    schedule = model.config.nearest_schedule((height, width))
    nearest = tuple(side * stride for side in schedule.full)
    if nearest != size:
        raise ConfigError(
            f"{model.family} cannot make a picture of {size[0]}x{size[1]} pixels (height x width) here",
            expected=f"{nearest[0]}x{nearest[1]}, the nearest size that it can make",
        )
    return schedule


def schedule_of_ratio(model: Model, ratio: float) -> ScaleSchedule:
    """The schedule for pictures about as large as the model's own and ``ratio`` times as wide as high.

    Raises `ConfigError` where the model makes none of about that shape.
    """
    area = math.prod(model.schedule.full)
    wanted = max(1, round(math.sqrt(area / ratio))), max(1, round(math.sqrt(area * ratio)))
    schedule = model.config.nearest_schedule(wanted)
    height, width = schedule.full
    if abs(math.log(width / height / ratio)) > NEAR:
        raise ConfigError(
            f"{model.family} cannot make a picture {ratio:.3g} times as wide as high here",
            expected=f"{width / height:.3g}, the nearest that it can make",
        )
    return schedule
