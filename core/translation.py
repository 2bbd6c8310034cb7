"""Translating pictures with a next-scale autoregressive model: the flow of CycleVAR, top to bottom.

Parallel (Sec. 3.3, Eq. 8-9) computes all scales in one pass of the backbone; serial (Eq. 6-7, Algorithm 1) one scale at
a time with a key-value cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cyclevar.core.attention import Visibility
from cyclevar.core.cache import KeyValueCache
from cyclevar.core.config import TranslationConfig
from cyclevar.core.interfaces import Condition
from cyclevar.core.picture_model import Translated
from cyclevar.core.pyramid import compose, tokenize

if TYPE_CHECKING:
    from cyclevar.core.model import Model


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
    model: Model, images: Tensor, condition: Condition, config: TranslationConfig, *, clamp: bool = True
) -> Translation:
    """Translate images ``[B,3,H,W]`` in [-1,1], of the model's size, to the domain of ``condition``."""
    context = encode_context(model, images)
    return translate_context(model, context, condition, config, clamp=clamp)


def encode_context(model: Model, images: Tensor) -> list[Tensor]:
    """F_1..F_K of images: encoded, quantized scale by scale, summed up, seen at every scale (Eq. 5).

    Differentiable to the images: straight through the quantizer, and through the encoder.
    """
    tokenizer, schedule = model.tokenizer, model.schedule
    latent = tokenizer.encode(images)
    pyramid = tokenize(tokenizer, latent, schedule)
    return tokenizer.context(pyramid.maps, schedule, latent=latent)


def translate_context(
    model: Model, context: Sequence[Tensor], condition: Condition, config: TranslationConfig, *, clamp: bool = True
) -> Translation:
    """Translate what `encode_context` gave."""
    prediction = predict(model, context, condition, config)
    return Translation(**vars(prediction), image=model.tokenizer.decode(prediction.latent, clamp=clamp))


def predict(model: Model, context: Sequence[Tensor], condition: Condition, config: TranslationConfig) -> Prediction:
    """The translated latent, not yet decoded."""
    source = model.tokenizer.as_latent(context[-1])
    run = _parallel if config.mode == "parallel" else _serial_native if config.serial == "native" else _serial_literal
    predicted, maps, logits = run(model, context, condition, config)
    latent = config.fusion * predicted + (1 - config.fusion) * source
    return Prediction(latent, predicted, source, context, maps, logits)


Predicted = tuple[Tensor, Sequence[Tensor], Tensor]
"""The latent that the predicted maps build, the maps, the logits."""


def _parallel(model: Model, context: Sequence[Tensor], condition: Condition, config: TranslationConfig) -> Predicted:
    """All scales in one pass: scale k reads F_1..F_k (Eq. 8)."""
    schedule = model.schedule
    features = [None if config.start == "keep" else context[0], *context[1:]]
    logits = model.backbone(
        features,
        condition,
        schedule,
        visibility=_visibility(model, config),
        start="add" if config.start == "add" else "replace",
    )
    maps = schedule.unpack(_relax(model, logits, config))
    return compose(model.tokenizer, maps, schedule, last_only=config.output == "last"), maps, logits


def _serial_native(
    model: Model, context: Sequence[Tensor], condition: Condition, config: TranslationConfig
) -> Predicted:
    """Scale by scale; each reads the blend of what was predicted so far with the source (Eq. 6, VAR's recursion).

    With fusion 1 this is VAR's own decoding with relaxed codes.
    """
    tokenizer, schedule, a = model.tokenizer, model.schedule, config.fusion
    cache = KeyValueCache(model.backbone.depth, schedule, _visibility(model, config))
    condition = _prepared(model, condition)
    state, feature = tokenizer.begin(len(condition), schedule), None
    maps, logits = [], []
    for scale in range(len(schedule)):
        logits.append(model.backbone([feature], condition, schedule, first=scale, cache=cache))
        maps += schedule.unpack(_relax(model, logits[-1], config), first=scale)
        state = tokenizer.absorb(state, maps[-1])
        if scale + 1 < len(schedule):
            read = tokenizer.next_input(state)
            assert read is not None
            feature = a * read + (1 - a) * context[scale + 1]
    return compose(tokenizer, maps, schedule, last_only=config.output == "last"), maps, torch.cat(logits, dim=1)


def _serial_literal(
    model: Model, context: Sequence[Tensor], condition: Condition, config: TranslationConfig
) -> Predicted:
    """Algorithm 1 as printed: predictions and source are blended at the size of each scale, then upsampled."""
    tokenizer, schedule, a = model.tokenizer, model.schedule, config.fusion
    cache = KeyValueCache(model.backbone.depth, schedule, _visibility(model, config))
    condition = _prepared(model, condition)
    read: Tensor | None = None
    maps, logits = [], []
    predicted = context[0]
    for scale, source in enumerate(context):
        logits.append(model.backbone([read], condition, schedule, first=scale, cache=cache))
        maps += schedule.unpack(_relax(model, logits[-1], config), first=scale)
        predicted = maps[-1] if read is None else maps[-1] + read
        if scale + 1 < len(schedule):
            read = tokenizer.upsample(a * predicted + (1 - a) * source, schedule.sizes[scale + 1])
    return tokenizer.as_latent(predicted), maps, torch.cat(logits, dim=1)


def _relax(model: Model, logits: Tensor, config: TranslationConfig) -> Tensor:
    gumbel = config.gumbel and model.training
    return model.tokenizer.quantizer.relax(logits, config.temperature, gumbel)


def _prepared(model: Model, condition: Condition) -> Condition:
    return condition if condition.modulation else model.backbone.prepared(condition)


def _visibility(model: Model, config: TranslationConfig) -> Visibility:
    scales = len(model.schedule)
    return Visibility.causal(scales) if config.context == "multi" else Visibility.last_alone(scales)
