"""Translating pictures with a next-scale autoregressive model: the flow of CycleVAR, top to bottom.

Parallel (Sec. 3.3, Eq. 8-9) computes all scales in one pass of the backbone; serial (Eq. 6-7, Algorithm 1) one scale at
a time with a key-value cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.errors import PluginError
from cyclevar.core.interfaces.backbone import Condition
from cyclevar.core.interfaces.callbacks import ScaleStep, Session
from cyclevar.core.interfaces.model import TokenModel, Translated
from cyclevar.core.interfaces.tokenizer import ScaleState
from cyclevar.core.next_scale.pyramid import compose, tokenize
from cyclevar.core.next_scale.session import open_session


@dataclass(frozen=True)
class Prediction:
    """What the backbone makes of a batch, before decoding.

    ``latent``: the composed latent E^ (Eq. 9); ``predicted``: what the predicted maps build alone; ``source``: the
    source's quantized latent F_K, all ``[B,C,h,w]``; ``context``: F_1..F_K; ``maps``: the relaxed maps R^_1..R^_K;
    ``logits``: float32 ``[B,L,logit_dim]``.
    """

    latent: Tensor
    predicted: Tensor
    source: Tensor
    context: Sequence[Tensor]
    maps: Sequence[Tensor]
    logits: Tensor


@dataclass(frozen=True)
class Translation(Prediction, Translated):
    """A prediction and its picture."""


def translate(
    model: TokenModel, images: Tensor, condition: Condition, config: TranslationConfig, *, clamp: bool = True
) -> Translation:
    """Translate images ``[B,3,H,W]`` in [-1,1], of the model's size, to the domain of ``condition``."""
    context = encode_context(model, images)
    return translate_context(model, context, condition, config, clamp=clamp)


def encode_context(model: TokenModel, images: Tensor) -> list[Tensor]:
    """F_1..F_K of images: encoded, quantized scale by scale, summed up, seen at every scale (Eq. 5).

    Differentiable to the images: straight through the quantizer, and through the encoder.
    """
    tokenizer, schedule = model.tokenizer, model.schedule
    latent = tokenizer.encode(images)
    pyramid = tokenize(tokenizer, latent, schedule)
    return tokenizer.context(pyramid.maps, schedule, latent=latent)


def translate_context(
    model: TokenModel,
    context: Sequence[Tensor],
    condition: Condition,
    config: TranslationConfig,
    *,
    clamp: bool = True,
    session: Session | None = None,
) -> Translation:
    """Translate what `encode_context` gave. ``session``: what acts on it; opened here where it is not given."""
    session = session or open_session("translate", model, config)
    with session.running(model.backbone):
        prediction = predict(model, context, condition, config, session)
        made = Translation(**vars(prediction), image=session.decode(prediction.latent, clamp=clamp))
        if session.task != "train":
            session.end(made)
    return made


def predict(
    model: TokenModel,
    context: Sequence[Tensor],
    condition: Condition,
    config: TranslationConfig,
    session: Session | None = None,
) -> Prediction:
    """The translated latent, not yet decoded."""
    session = session or open_session("translate", model, config)
    source, condition = model.tokenizer.as_latent(context[-1]), session.told(condition)
    run = _parallel if config.mode == "parallel" else _serial_native if config.serial == "native" else _serial_literal
    predicted, maps, logits = run(model, context, condition, config, session)
    latent = config.fusion * predicted + (1 - config.fusion) * source
    return Prediction(latent, predicted, source, context, maps, logits)


Predicted = tuple[Tensor, Sequence[Tensor], Tensor]
"""The latent that the predicted maps build, the maps, the logits."""


def _parallel(
    model: TokenModel, context: Sequence[Tensor], condition: Condition, config: TranslationConfig, session: Session
) -> Predicted:
    """All scales in one pass: scale k reads F_1..F_k (Eq. 8)."""
    schedule = model.schedule
    steps = [ScaleStep(session, scale, None, condition) for scale in range(len(schedule))]
    features = [None if config.start == "keep" else context[0], *context[1:]]
    logits = model.backbone(
        [session.passed("on_features", step, feature) for step, feature in zip(steps, features, strict=True)],
        condition,
        schedule,
        visibility=session.visibility,
        start="add" if config.start == "add" else "replace",
    )
    if session.callbacks:
        parts = logits.split(schedule.lengths, dim=1)
        logits = torch.cat([session.passed("on_logits", *pair) for pair in zip(steps, parts, strict=True)], dim=1)
    maps = schedule.unpack(_relax(model, logits, config))
    return compose(model.tokenizer, maps, schedule, last_only=config.output == "last"), maps, logits


def _serial_native(
    model: TokenModel, context: Sequence[Tensor], condition: Condition, config: TranslationConfig, session: Session
) -> Predicted:
    """Scale by scale; each reads the blend of what was predicted so far with the source (Eq. 6, VAR's recursion).

    With fusion 1 this is VAR's own decoding with relaxed codes.
    """
    tokenizer, schedule, a = model.tokenizer, model.schedule, config.fusion
    scales = _Scales(model, condition, config, session)
    state, feature = tokenizer.begin(len(condition), schedule), None
    for scale in range(len(schedule)):
        part = scales.predict(feature, state)
        state = tokenizer.absorb(state, part)
        scales.finish(state)
        if scale + 1 < len(schedule):
            read = tokenizer.next_input(state)
            assert read is not None
            feature = a * read + (1 - a) * context[scale + 1]
    latent = compose(tokenizer, scales.maps, schedule, last_only=config.output == "last")
    return latent, scales.maps, torch.cat(scales.logits, dim=1)


def _serial_literal(
    model: TokenModel, context: Sequence[Tensor], condition: Condition, config: TranslationConfig, session: Session
) -> Predicted:
    """Algorithm 1 as printed: predictions and source are blended at the size of each scale, then upsampled."""
    tokenizer, schedule, a = model.tokenizer, model.schedule, config.fusion
    scales = _Scales(model, condition, config, session)
    read: Tensor | None = None
    predicted = context[0]
    for scale, source in enumerate(context):
        part = scales.predict(read)
        predicted = part if read is None else part + read
        scales.finish()
        if scale + 1 < len(schedule):
            read = tokenizer.upsample(a * predicted + (1 - a) * source, schedule.sizes[scale + 1])
    return tokenizer.as_latent(predicted), scales.maps, torch.cat(scales.logits, dim=1)


class _Scales:
    """Predicts map after map with a key-value cache; ``maps`` and ``logits`` hold those of the scales so far."""

    def __init__(self, model: TokenModel, condition: Condition, config: TranslationConfig, session: Session) -> None:
        self.model, self.config, self.session = model, config, session
        self.condition = condition if condition.modulation else model.backbone.prepared(condition)
        self.cache = session.new_cache(condition)
        self.maps: list[Tensor] = []
        self.logits: list[Tensor] = []

    def predict(self, feature: Tensor | None, state: ScaleState | None = None) -> Tensor:
        """The relaxed map of the next scale, which reads ``feature``."""
        session, schedule, scale = self.session, self.model.schedule, len(self.maps)
        step = ScaleStep(session, scale, state, self.condition)
        session.start(step)
        feature = session.passed("on_features", step, feature)
        logits = self.model.backbone([feature], self.condition, schedule, first=scale, cache=self.cache)
        self.logits.append(session.passed("on_logits", step, logits))
        self.maps += schedule.unpack(_relax(self.model, self.logits[-1], self.config), first=scale)
        return self.maps[-1]

    def finish(self, state: ScaleState | None = None) -> None:
        """Ask the callbacks what to do behind the scale that was just predicted; they can only keep on."""
        scale = len(self.maps) - 1
        answer = self.session.answer(ScaleStep(self.session, scale, state, self.condition, logits=self.logits[-1]))
        if answer is not None:
            raise PluginError(
                f"a callback says {type(answer).__name__} after scale {scale} of a translation",
                expected="Keep: every picture has one translation, of all scales",
            )


def _relax(model: TokenModel, logits: Tensor, config: TranslationConfig) -> Tensor:
    gumbel = config.gumbel and model.training
    return model.tokenizer.quantizer.relax(logits, config.temperature, gumbel)
