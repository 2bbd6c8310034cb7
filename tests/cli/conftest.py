"""A built-in data set small enough to be judged in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from cyclevar.core.data import emoji as builtin
from cyclevar.core.data.sources import Part, PictureList, UnpairedDataset


@pytest.fixture
def few_emoji(monkeypatch: pytest.MonkeyPatch) -> Callable[[], UnpairedDataset]:
    """Six emoji in each part, judged at a side of 64 px, and room for whole tables."""
    real = builtin.open_emoji

    def few(part: Part | None) -> Part:
        assert part is not None
        first, second = (PictureList(pictures.source, pictures.names[:6]) for pictures in part)
        return first, second

    def open_emoji(*, skin_tones: bool = False) -> UnpairedDataset:
        whole = real(skin_tones=skin_tones)
        parts = {"train": few(whole.train), "validation": few(whole.validation), "test": few(whole.test)}
        return dataclasses.replace(whole, **parts)

    from cyclevar.core.evaluation import networks as nets
    from cyclevar.core.evaluation import perceptual
    from cyclevar.core.networks import feature_net as features

    net = features.load_feature_net(input_size=64)
    monkeypatch.setenv("COLUMNS", "200")  # so that no table wraps
    monkeypatch.setattr(builtin, "open_emoji", open_emoji)
    for module in (features, nets, perceptual):
        monkeypatch.setattr(module, "load_feature_net", lambda **settings: net)
    return open_emoji
