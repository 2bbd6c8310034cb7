"""Who sees whom, how many pairs that leaves, and that steps without a cache equal the one pass."""

from __future__ import annotations

import pytest
import torch
from cyclevar_markov.config import MarkovConfig
from cyclevar_markov.visibility import build, windows
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.attention.cache import KeyValueCache
from cyclevar.core.attention.plan import Visibility
from cyclevar.core.config.base import validate
from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.models.catalog import open_model
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.generation import generate
from cyclevar.core.next_scale.pyramid import teacher_inputs, tokenize
from cyclevar.core.next_scale.translation import translate
from cyclevar.core.schedule import ScaleSchedule

SCHEDULE = ScaleSchedule.square(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
"""Of VAR's models for 256 pixels."""

EVERY = [{}, {"window": 3}, {"window": 7}, {"coarser": 1}, {"coarser": 1, "window": 3}]


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model("var", "tiny").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs(model: Model) -> list[Tensor | None]:
    images = torch.rand(2, 3, *model.image_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = model.tokenizer.encode(images)
    return teacher_inputs(model.tokenizer, tokenize(model.tokenizer, latent, model.schedule).maps, model.schedule)


def test_pairs_of_var_at_256_pixels() -> None:
    every = Visibility.causal(len(SCHEDULE)).pairs(SCHEDULE)
    own, windowed = (build(SCHEDULE, MarkovConfig(window=window)).pairs(SCHEDULE) for window in (0, 7))
    assert (every, own, windowed) == (286434, 110468, 31136)
    assert round(own / every, 2) == 0.39
    assert round(windowed / every, 2) == 0.11


def test_a_window_has_its_size_and_lies_around_the_token() -> None:
    seen = windows((8, 10), (8, 10), 3).unflatten(1, (8, 10)).unflatten(0, (8, 10))
    assert bool((seen.sum((2, 3)) == 9).all())
    assert bool(seen[4, 5, 3:6, 4:7].all())
    assert bool(seen[0, 9, :3, 7:].all())


def test_a_window_in_another_scale_lies_at_the_same_place() -> None:
    seen = windows((8, 8), (4, 4), 1).unflatten(1, (4, 4)).unflatten(0, (8, 8))
    for row in range(8):
        for column in range(8):
            assert seen[row, column].nonzero().tolist() == [[row // 2, column // 2]]


def test_a_window_as_large_as_the_map_hides_nothing() -> None:
    visibility = build(SCHEDULE, MarkovConfig(window=17))
    assert visibility.pairs(SCHEDULE) == build(SCHEDULE, MarkovConfig()).pairs(SCHEDULE)


@pytest.mark.parametrize("settings", EVERY)
def test_steps_equal_the_one_pass(model: Model, inputs: list[Tensor | None], settings: dict[str, int]) -> None:
    visibility = build(model.schedule, MarkovConfig(**settings))
    condition = model.backbone.condition(["noto", "fluent"])
    whole = model.backbone(inputs, condition, model.schedule, visibility=visibility)
    cache = KeyValueCache(model.backbone.depth, model.schedule, visibility)
    for scale, part in enumerate(inputs):
        step = model.backbone([part], condition, model.schedule, first=scale, cache=cache)
        same = whole[:, slice(*model.schedule.spans[scale])]
        assert_close(step, same, atol=1e-4, rtol=1e-4)
        assert torch.equal(step.argmax(-1), same.argmax(-1))
        last = scale + 1 == len(inputs)
        held = model.schedule.lengths[scale] if settings.get("coarser") and not last else 0
        assert cache.tokens() == [held] * model.backbone.depth
        if not settings.get("coarser"):
            alone = model.backbone([part], condition, model.schedule, first=scale, visibility=visibility)
            assert torch.equal(step, alone)


@pytest.mark.parametrize("settings", EVERY)
def test_the_mask_is_what_the_kernel_computes(
    model: Model, inputs: list[Tensor | None], settings: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    visibility = build(model.schedule, MarkovConfig(**settings))
    condition = model.backbone.condition(["noto", "fluent"])
    outs = []
    for backend in ("sdpa", "dense"):
        monkeypatch.setattr(model.backbone, "attention_backend", backend)
        outs.append(model.backbone(inputs, condition, model.schedule, visibility=visibility))
    assert_close(*outs, atol=1e-4, rtol=1e-4)


def test_a_token_outside_of_the_window_makes_no_difference_in_one_layer() -> None:
    model = open_model("var", "tiny").eval()
    model.backbone.blocks = model.backbone.get_submodule("blocks")[:1]
    visibility = build(model.schedule, MarkovConfig(window=3))
    scale = len(model.schedule) - 1
    side = model.schedule.full[0]
    feature = torch.randn(1, model.tokenizer.channels, side, side, generator=torch.Generator().manual_seed(0))
    changed = feature.clone()
    changed[..., 8, 8] += 10
    with torch.no_grad():
        one, other = (
            model.backbone(
                [part], model.backbone.condition(["noto"]), model.schedule, first=scale, visibility=visibility
            )
            for part in (feature, changed)
        )
    differs = ((one - other).abs() > 1e-4).any(-1).view(side, side)
    expected = torch.zeros(side, side, dtype=torch.bool)
    expected[7:10, 7:10] = True
    assert torch.equal(differs, expected)


def test_asked_for_by_name_it_is_used_and_otherwise_not(model: Model) -> None:
    condition = model.backbone.condition(["noto"])
    plain = generate(model, condition, top_k=1).logits
    markov = generate(model, condition, top_k=1, extensions={"visibility": {"markov": {}}}).logits
    assert not torch.allclose(plain, markov, atol=1e-2)
    images = torch.zeros(1, 3, *model.image_size)
    for mode in ("parallel", "serial"):
        config = validate(TranslationConfig, {"mode": mode, "extensions": {"visibility": {"markov": {"window": 7}}}})
        assert bool(translate(model, images, condition, config).image.isfinite().all())


def test_wrong_settings_are_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match="odd number"):
        generate(model, model.backbone.condition(["noto"]), extensions={"visibility": {"markov": {"window": 4}}})
