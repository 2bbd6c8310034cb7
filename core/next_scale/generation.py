"""Sampling new pictures: the recursion run forward from the start token (VAR Sec. 3.2 and 4)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclevar.core.config.base import merged, validate
from cyclevar.core.config.inference import SamplingConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces.backbone import Condition
from cyclevar.core.interfaces.callbacks import Callback, Rewind, ScaleStep, Select, Session, Stop
from cyclevar.core.interfaces.model import TokenModel
from cyclevar.core.next_scale.session import open_session
from cyclevar.core.schedule import ScaleSchedule

REWINDS = 256
"""How often callbacks may rewind a batch before that is taken for a mistake."""

NEAR = 0.15
"""How far, as a logarithm, a picture's shape may be from the wanted one: whole cells allow few shapes."""


@dataclass(frozen=True)
class Generation:
    """Generated pictures.

    ``image``: float ``[B,3,H,W]`` in [-1,1]; ``codes``: one tensor a scale; ``logits``: float32 ``[B,L,logit_dim]``
    after guidance and temperature, before any filter. ``rows``: which row of the condition each picture is of, and
    ``samples``: its number, where callbacks selected some.
    """

    image: Tensor
    codes: Sequence[Tensor]
    logits: Tensor
    rows: Sequence[int]
    samples: Sequence[int]


@torch.no_grad()
def generate(
    model: TokenModel,
    condition: Condition,
    *,
    schedule: ScaleSchedule | None = None,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Generation:
    """Draw one picture a row of ``condition``, coarse to fine.

    ``schedule``: another one than the model's, where the family can. ``samples`` numbers the pictures (0, 1, ... if
    not given): the noise of picture ``samples[b]`` follows from that number, ``seed`` and the scale alone, so that a
    picture does not change with its neighbours. ``callbacks`` may act on every scale, by forcing codes for instance.
    ``settings`` change the model's `SamplingConfig`: ``guidance``, ``temperature``, ``top_k`` (1 is greedy), ``top_p``
    and others.

    With guidance at any scale the batch runs doubled. Raises `PluginError` naming a callback that fails.
    """
    sampling = sampling_config(model, **settings)
    session = open_session("generate", model, sampling, schedule=schedule, callbacks=callbacks)
    samples = range(len(condition)) if samples is None else samples
    with session.running(model.backbone):
        drawing = _Drawing(session, model, sampling, session.told(condition), seed, samples)
        scale, scales = 0, len(drawing.schedule)
        while scale < scales:
            drawing.draw(scale)
            match session.answer(drawing.step(scale)) if session.callbacks else None:
                case Stop():
                    break
                case Rewind(to):
                    drawing.rewind(to, scale)
                    scale = to
                case Select(rows, numbers):
                    drawing.select(rows, numbers)
                    scale += 1
                case _:
                    scale += 1
        image = session.decode(model.tokenizer.latent(drawing.states[-1]))
        made = Generation(image, drawing.codes, torch.cat(drawing.logits, dim=1), drawing.rows, drawing.samples)
        session.end(made)
    return made


class _Drawing:
    """A batch on its way through the scales: all that `Select` has to re-index and `Rewind` to forget.

    ``states``: what was built before every scale and behind the last; ``features``, ``codes``, ``logits``: of every
    scale so far.
    """

    def __init__(
        self,
        session: Session,
        model: TokenModel,
        sampling: SamplingConfig,
        condition: Condition,
        seed: int,
        samples: Sequence[int],
    ) -> None:
        self.session, self.model, self.sampling, self.seed = session, model, sampling, seed
        assert session.schedule is not None
        self.schedule = session.schedule
        self.samples, self.rows = list(samples), list(range(len(condition)))
        self.strengths, self.temperatures, self.top_ks, self.top_ps = (
            _per_scale(sampling, name, self.schedule) for name in ("guidance", "temperature", "top_k", "top_p")
        )
        self.guided = any(strength != sampling.no_guidance for strength in self.strengths)
        null = model.backbone.prepared(condition.null) if self.guided and condition.null is not None else None
        self.condition = replace(model.backbone.prepared(condition), null=null)
        self.cache = session.new_cache(condition)
        self.states = [model.tokenizer.begin(len(condition), self.schedule)]
        self.features: list[Tensor | None] = []
        self.codes: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.attempts, self.rewound = [0] * len(self.schedule), 0

    def step(self, scale: int) -> ScaleStep:
        """Where the batch is: at the beginning of ``scale``, or behind it once its codes are there."""
        there = len(self.codes) > scale
        return ScaleStep(
            self.session,
            scale,
            self.states[scale + there],
            self.condition,
            tuple(self.samples),
            self.attempts[scale],
            logits=self.logits[scale] if there else None,
            codes=self.codes[scale] if there else None,
        )

    def draw(self, scale: int) -> None:
        tokenizer, session = self.model.tokenizer, self.session
        state, step = self.states[scale], self.step(scale)
        session.start(step)
        self.features.append(session.passed("on_features", step, tokenizer.next_input(state)))
        logits = session.passed("on_logits", step, self._predicted(scale) / self.temperatures[scale])
        noise = [noise_generator(self.seed, sample, scale, step.attempt) for sample in self.samples]
        codes = tokenizer.quantizer.sample(logits, int(self.top_ks[scale]), self.top_ps[scale], noise)
        codes = session.passed("on_codes", step, codes.unflatten(1, self.schedule.sizes[scale]))
        self.states.append(tokenizer.absorb(state, tokenizer.quantizer.lookup(codes).movedim(-1, 1)))
        self.codes.append(codes)
        self.logits.append(logits)

    def select(self, rows: Sequence[int], numbers: Sequence[int] | None) -> None:
        if not rows or not all(0 <= row < len(self.samples) for row in rows):
            raise ConfigError(
                f"rows {list(rows)} are selected", expected=f"some of the {len(self.samples)} rows of the batch"
            )
        if numbers is not None and len(numbers) != len(rows):
            raise ConfigError(f"{len(numbers)} numbers are given for {len(rows)} selected pictures")
        self.samples = [self.samples[row] for row in rows] if numbers is None else list(numbers)
        self.rows = [self.rows[row] for row in rows]
        index = torch.tensor(rows, device=self.states[-1].value.device)
        self.condition = self.condition.chosen(index)
        self.cache.select(torch.cat([index, index + len(self.states[-1].value)]) if self.guided else index)
        self.states = [replace(state, value=state.value[index]) for state in self.states]
        self.features = [None if feature is None else feature[index] for feature in self.features]
        self.codes, self.logits = [one[index] for one in self.codes], [one[index] for one in self.logits]

    def rewind(self, to: int, scale: int) -> None:
        """Forget the scales from ``to`` on. The cache is filled anew: it may have dropped what is needed again."""
        self.rewound += 1
        if not 0 <= to <= scale:
            raise ConfigError(f"after scale {scale} a callback rewinds to scale {to}", expected=f"0 to {scale}")
        if self.rewound > REWINDS:
            raise ConfigError(f"callbacks have rewound {REWINDS} times", expected="a callback that comes to an end")
        for one in range(to, len(self.schedule)):
            self.attempts[one] += 1
        del self.states[to + 1 :], self.features[to:], self.codes[to:], self.logits[to:]
        self.cache = self.session.new_cache(self.condition)
        for one in range(to):
            self._predicted(one)

    def _predicted(self, scale: int) -> Tensor:
        """The backbone's logits of a scale, whose features are there; its keys and values go into the cache."""
        backbone, feature = self.model.backbone, self.features[scale]
        if self.guided:
            more = self.cache, self.strengths[scale], self.sampling
            return backbone.guided(feature, self.condition, self.schedule, scale, *more)
        logits: Tensor = backbone([feature], self.condition, self.schedule, first=scale, cache=self.cache)
        return logits


def sampling_config(model: TokenModel, **settings: Any) -> SamplingConfig:
    """The model's sampling settings with ``settings`` changed. Raises `ConfigError` for a wrong one."""
    own = model.config.sampling
    return validate(type(own), merged(own.model_dump(), settings))


def noise_generator(seed: int, sample: int, scale: int, attempt: int = 0) -> torch.Generator:
    """The random numbers of one picture at one scale, the same on every device; others at another ``attempt``."""
    entropy = (seed, sample, scale, attempt) if attempt else (seed, sample, scale)
    [state] = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
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
    model: TokenModel,
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
        for row, number, image in zip(drawn.rows, drawn.samples, drawn.image, strict=True):
            yield some[row][0], number, image


def schedule_for(model: TokenModel, size: tuple[int, int]) -> ScaleSchedule:
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


def schedule_of_ratio(model: TokenModel, ratio: float) -> ScaleSchedule:
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
