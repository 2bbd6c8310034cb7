"""What plugins do at run time: callbacks in a generation and a translation, and what replaces a default."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.attention.cache import CachePolicy, LayerView
from cyclevar.core.attention.plan import Visibility
from cyclevar.core.config.inference import ExtensionsConfig, TranslationConfig
from cyclevar.core.errors import ConfigError, PluginError, UnknownNameError
from cyclevar.core.extension.manager import Manager
from cyclevar.core.interfaces.backbone import Backbone, Condition
from cyclevar.core.interfaces.callbacks import Answer, Callback, Keep, Rewind, ScaleStep, Select, Stop
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale import generation
from cyclevar.core.next_scale import session as session_module
from cyclevar.core.next_scale.generation import Generation, generate, generate_each, noise_generator
from cyclevar.core.next_scale.session import open_session
from cyclevar.core.next_scale.translation import encode_context, translate, translate_context
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.schedule import ScaleSchedule

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


class Answering(Callback):
    """Gives the answer of each scale once, from a table."""

    def __init__(self, answers: Mapping[int, Answer]) -> None:
        self.answers = dict(answers)

    def on_scale_end(self, step: ScaleStep) -> Answer:
        return self.answers.pop(step.scale, None)


class Journal(Callback):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[ScaleStep] = []

    def begin(self, session: Any) -> None:
        self.lines.append(f"begin {session.task}")

    def on_scale_start(self, step: ScaleStep) -> None:
        self.lines.append(f"start {step.scale}")
        self.steps.append(step)

    def on_features(self, step: ScaleStep, feature: Tensor | None) -> Tensor | None:
        self.lines.append(f"features {step.scale}")
        return feature

    def on_logits(self, step: ScaleStep, logits: Tensor) -> Tensor:
        self.lines.append(f"logits {step.scale}")
        return logits

    def on_codes(self, step: ScaleStep, codes: Tensor) -> Tensor:
        self.lines.append(f"codes {step.scale}")
        return codes

    def on_scale_end(self, step: ScaleStep) -> Answer:
        self.lines.append(f"end {step.scale}")
        return Keep()

    def end(self, result: Any) -> None:
        self.lines.append(f"made {type(result).__name__}")


def draw(model: Model, *callbacks: Callback, targets: Sequence[int] = (0, 1), **settings: Any) -> Generation:
    return generate(model, model.backbone.condition(targets), callbacks=callbacks, **settings)


def same(one: Generation, other: Generation) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.codes, other.codes, strict=True))


def test_the_events_of_a_generation(model: Model) -> None:
    journal = Journal()
    draw(model, journal)
    scales = range(len(model.schedule))
    events = ("start", "features", "logits", "codes", "end")
    assert journal.lines == ["begin generate", *(f"{e} {k}" for k in scales for e in events), "made Generation"]
    first = journal.steps[1]
    assert first.state is not None
    assert first.state.scale == 1
    assert first.samples == (0, 1)
    assert (first.codes, first.logits) == (None, None)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["parallel", "serial"])
def test_the_events_of_a_translation(model: Model, images: Tensor, mode: str) -> None:
    journal, config = Journal(), TranslationConfig(mode=mode)  # type: ignore[arg-type]
    session = open_session("translate", model, config, callbacks=[journal])
    context, condition = encode_context(model, images), model.backbone.condition([0, 1])
    acted = translate_context(model, context, condition, config, session=session)
    assert torch.equal(acted.image, translate(model, images, condition, config).image)
    scales = range(len(model.schedule))
    if mode == "parallel":
        between = [*(f"features {k}" for k in scales), *(f"logits {k}" for k in scales)]
    else:
        between = [f"{event} {k}" for k in scales for event in ("start", "features", "logits", "end")]
    assert journal.lines == ["begin translate", *between, "made Translation"]


def test_what_a_callback_returns_goes_on(model: Model) -> None:
    class One(Callback):
        def on_logits(self, step: ScaleStep, logits: Tensor) -> Tensor:
            forced = torch.full_like(logits, -1e4)
            forced[..., step.scale] = 0
            return forced

    for scale, codes in enumerate(draw(model, One()).codes):
        assert bool((codes == scale).all())
    plain, other = draw(model), draw(model, Added())
    assert torch.equal(plain.codes[0], other.codes[0])
    assert not torch.allclose(plain.logits, other.logits, atol=1e-2)


class Added(Callback):
    """Adds features from the second scale on."""

    def on_features(self, step: ScaleStep, feature: Tensor | None) -> Tensor | None:
        return None if feature is None else feature + 1


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_selecting_equals_the_unselected_run_indexed(model: Model, guidance: float) -> None:
    whole = draw(model, targets=(0, 1, 2), guidance=guidance)
    for scale in range(len(model.schedule)):
        some = draw(model, Answering({scale: Select([2, 0])}), targets=(0, 1, 2), guidance=guidance)
        assert_close(some.logits, whole.logits[[2, 0]], **CLOSE)
        assert all(torch.equal(a, b[[2, 0]]) for a, b in zip(some.codes, whole.codes, strict=True))


def test_what_is_there_twice_can_go_on_apart(model: Model) -> None:
    twins = draw(model, Answering({1: Select([0, 0])}))
    assert torch.equal(twins.image[0], twins.image[1])
    apart = draw(model, Answering({1: Select([0, 0], samples=[0, 7])}))
    assert torch.equal(apart.codes[1][0], apart.codes[1][1])
    assert not torch.equal(apart.codes[-1][0], apart.codes[-1][1])
    assert torch.equal(apart.image[0], twins.image[0])


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_rewinding_draws_the_same_past_and_another_future(model: Model, guidance: float) -> None:
    plain = draw(model, guidance=guidance)
    for to in (0, 1, 2):
        journal = Journal()
        again = draw(model, Answering({2: Rewind(to)}), journal, guidance=guidance)
        assert all(torch.equal(again.codes[k], plain.codes[k]) for k in range(to))
        assert not same(again, plain)
        assert [step.attempt for step in journal.steps if step.scale == to] == [0, 1]
        assert [step.attempt for step in journal.steps if step.scale == 3] == [1]
        forced = draw(model, Forced(again), guidance=guidance)
        assert_close(again.logits, forced.logits, **CLOSE)  # the cache was filled with what was drawn


class Forced(Callback):
    """Gives the codes of a generation."""

    def __init__(self, generation: Generation) -> None:
        self.codes = generation.codes

    def on_codes(self, step: ScaleStep, codes: Tensor) -> Tensor:
        return self.codes[step.scale]


def test_noise_of_another_attempt_is_other_noise() -> None:
    first, again = (torch.rand(4, generator=noise_generator(1, 2, 3, attempt)) for attempt in (0, 1))
    assert not torch.equal(first, again)
    assert torch.equal(first, torch.rand(4, generator=noise_generator(1, 2, 3)))


def test_stopping_decodes_what_there_is(model: Model) -> None:
    plain, stopped = draw(model), draw(model, Answering({1: Stop()}))
    assert len(stopped.codes) == 2
    assert stopped.image.shape == plain.image.shape
    assert_close(stopped.logits, plain.logits[:, : model.schedule.spans[1][1]], **CLOSE)


def test_wrong_answers(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Callback):
        def on_scale_end(self, step: ScaleStep) -> Answer:
            return Rewind(0)

    for answer, message in (
        (Select([]), "rows \\[\\] are selected"),
        (Select([2]), "rows \\[2\\] are selected; expected some of the 2 rows"),
        (Select([0], samples=[1, 2]), "2 numbers are given for 1 selected"),
        (Rewind(3), "rewinds to scale 3; expected 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            draw(model, Answering({1: answer}))
    monkeypatch.setattr(generation, "REWINDS", 3)
    with pytest.raises(ConfigError, match="rewound 3 times"):
        draw(model, Endless())
    with pytest.raises(PluginError, match="Answering says Stop and Answering says Rewind"):
        draw(model, Answering({1: Stop()}), Answering({1: Rewind(0)}))
    config = TranslationConfig(mode="serial")
    context = [torch.zeros(1, 8, *size) for size in model.schedule.sizes]
    session = open_session("translate", model, config, callbacks=[Answering({1: Stop()})])
    with torch.no_grad(), pytest.raises(PluginError, match="says Stop after scale 1 of a translation"):
        translate_context(model, context, model.backbone.condition([0]), config, session=session)


def test_a_callback_that_raises_is_named(model: Model) -> None:
    class Broken(Callback):
        def on_codes(self, step: ScaleStep, codes: Tensor) -> Tensor:
            raise RuntimeError("no luck")

    with pytest.raises(PluginError, match="the callback Broken failed in on_codes: RuntimeError: no luck"):
        draw(model, Broken())


@torch.no_grad()
def test_taps_are_there_while_they_are_asked_for(model: Model, images: Tensor) -> None:
    class Doubling(Callback):
        taps = (0, -1)

        def __init__(self) -> None:
            self.seen: list[tuple[int, int | None, int]] = []

        def on_activation(self, step: ScaleStep | None, layer: int, x: Tensor) -> Tensor | None:
            self.seen.append((layer, step.scale if step else None, x.shape[1]))
            return 2 * x if layer == 0 else None

    doubling, plain = Doubling(), draw(model)
    changed = draw(model, doubling)
    scales = enumerate(model.schedule.lengths)
    assert doubling.seen == [(layer, scale, length) for scale, length in scales for layer in (0, -1)]
    assert not torch.allclose(changed.logits, plain.logits, atol=1e-2)
    assert same(draw(model), plain), "the hooks are still there"

    config, parallel = TranslationConfig(), Doubling()
    session = open_session("translate", model, config, callbacks=[parallel])
    translate_context(model, encode_context(model, images), model.backbone.condition([0, 1]), config, session=session)
    assert parallel.seen == [(0, None, model.schedule.total), (-1, None, model.schedule.total)]

    class Beyond(Callback):
        taps = (99,)

    with pytest.raises(ConfigError, match="Beyond taps block 99; expected one of 2 blocks"):
        draw(model, Beyond())


# What is asked for by name.


class Keeping(CachePolicy):
    """Keeps the first ``share`` of the tokens of every scale, and notes what it was shown."""

    def __init__(self, share: float = 1.0) -> None:
        self.share, self.views = share, list[LayerView]()

    def evict(self, view: LayerView) -> Mapping[int, Tensor] | None:
        self.views.append(view)
        left = max(1, int(self.share * view.key.shape[1]))
        return {view.scale: torch.arange(left)[None]}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A manager with parts of a made-up plugin; what was built stands in the dictionary."""
    built: dict[str, Any] = {}
    manager = Manager(importlib.metadata.entry_points(group="cyclevar"), enabled=())

    def add(kind: str, name: str, make: Callable[..., Any]) -> None:
        def factory(*arguments: Any) -> Any:
            built[name] = make(*arguments)
            return built[name]

        manager.registry.add(kind, name, factory, summary="a test's", owner="plugin made-up (made-up 1.0)")

    add("visibility", "alone", lambda schedule: Visibility.own(len(schedule)))
    add("visibility", "all", lambda schedule: Visibility.causal(len(schedule)))
    add("cache_policy", "half", lambda: Keeping(0.5))
    add("cache_policy", "whole", Keeping)
    add("callback", "journal", Journal)
    add("decoder", "grey", lambda model: lambda latent, *, clamp=True: torch.zeros(len(latent), 3, *model.image_size))
    monkeypatch.setattr(session_module, "get_manager", lambda: manager)
    return built


def asked(**names: str) -> ExtensionsConfig:
    return ExtensionsConfig(**{kind: {name: {}} for kind, name in names.items()})


def test_parts_are_asked_for_by_name(model: Model, parts: dict[str, Any]) -> None:
    plain = draw(model)
    assert same(plain, draw(model, extensions=asked(callbacks="journal", visibility="all", cache_policy="whole")))
    assert "end 3" in parts["journal"].lines
    assert parts["journal"].name == "journal of plugin made-up (made-up 1.0)"
    assert not torch.allclose(plain.logits, draw(model, extensions=asked(visibility="alone")).logits, atol=1e-2)
    assert not torch.allclose(plain.logits, draw(model, extensions=asked(cache_policy="half")).logits, atol=1e-2)
    grey = draw(model, extensions=asked(decoder="grey"))
    assert same(grey, plain)
    assert not grey.image.any()


def test_a_translator_is_told_once_and_keeps_it(model: Model, images: Tensor, parts: dict[str, Any]) -> None:
    translator = Translator(model, domains=["a", "b"], targets=[0, 1], extensions=asked(callbacks="journal"))
    for _ in range(2):
        translator(images, "b")
    assert parts["journal"].lines.count("begin translate") == 2
    with torch.no_grad():
        for mode in ("serial", "parallel"):
            changed = Translator(model, domains=["a"], targets=[0], mode=mode, extensions=asked(visibility="alone"))
            plain = Translator(model, domains=["a"], targets=[0], mode=mode)
            assert not torch.allclose(changed(images, "a"), plain(images, "a"), atol=1e-4)


def test_what_the_policy_sees(model: Model, parts: dict[str, Any]) -> None:
    draw(model, extensions=asked(cache_policy="whole"))
    views, lengths = parts["whole"].views, model.schedule.lengths
    assert [(view.scale, view.layer) for view in views] == [(k, i) for k in range(len(lengths)) for i in range(2)]
    for view in views:
        assert view.query.shape[:2] == view.key.shape[:2] == view.value.shape[:2] == (2, lengths[view.scale])
        assert {scale: part[0].shape[1] for scale, part in view.held.items()} == dict(
            enumerate(lengths[: view.scale + 1])
        )
        assert torch.equal(view.held[view.scale][0], view.key)


def test_two_of_a_kind_are_refused(model: Model, parts: dict[str, Any]) -> None:
    both = ExtensionsConfig(visibility={"alone": {}, "all": {}})
    with pytest.raises(ConfigError, match=r"two parts of the kind visibility .* alone of plugin made-up .* and all of"):
        draw(model, extensions=both)
    with pytest.raises(ConfigError, match="two parts of the kind cache_policy"):
        draw(model, extensions=ExtensionsConfig(cache_policy={"half": {}, "whole": {}}))
    with pytest.raises(ConfigError, match="the setting context=last and alone of plugin made-up"):
        open_session("translate", model, TranslationConfig(context="last", extensions=asked(visibility="alone")))


def test_what_cannot_be(model: Model, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="no visibility named 'alon'"):
        draw(model, extensions=asked(visibility="alon"))
    with pytest.raises(ConfigError, match="no setting 'window'"):
        draw(model, extensions=ExtensionsConfig(visibility={"alone": {"window": 3}}))
    with pytest.raises(ConfigError, match=r"half of plugin made-up .* a parallel translation has no cache"):
        open_session("translate", model, TranslationConfig(extensions=asked(cache_policy="half")))

    class Needy(Callback):
        needs = ("telepathy",)

    with pytest.raises(ConfigError, match=r"Needy needs the capability 'telepathy', which the backbone of .* lacks"):
        draw(model, Needy())
    monkeypatch.setattr(type(model.backbone), "capabilities", Backbone.capabilities)
    with pytest.raises(ConfigError, match=r"half of plugin made-up .* needs the capability 'cache_policy'"):
        draw(model, extensions=asked(cache_policy="half"))


class Windows(Visibility):
    """Causal, but of every coarser scale only the first token."""

    def tokens(self, schedule: ScaleSchedule, query_scale: int, key_scale: int) -> Tensor | None:
        if query_scale == key_scale:
            return None
        mask = torch.zeros(schedule.lengths[query_scale], schedule.lengths[key_scale], dtype=torch.bool)
        mask[:, 0] = True
        return mask


@torch.no_grad()
def test_a_visibility_of_single_tokens_is_the_same_in_steps(model: Model, images: Tensor) -> None:
    schedule = model.schedule
    visibility = Windows(Visibility.causal(len(schedule)).sees)
    context, condition = encode_context(model, images), model.backbone.condition([0, 1])
    whole = model.backbone(context, condition, schedule, visibility=visibility)
    session = open_session("generate", model, model.config.sampling)
    session.use("visibility", visibility, "the test")
    cache = session.new_cache(condition)
    steps = [model.backbone([part], condition, schedule, first=k, cache=cache) for k, part in enumerate(context)]
    assert_close(torch.cat(steps, dim=1), whole, **CLOSE)
    plain = model.backbone(context, condition, schedule)
    assert not torch.allclose(whole, plain, atol=1e-2)
    model.backbone.attention_backend = "dense"
    try:
        assert_close(model.backbone(context, condition, schedule, visibility=visibility), whole, **CLOSE)
    finally:
        model.backbone.attention_backend = "auto"
    lengths = schedule.lengths
    assert visibility.pairs(schedule) == sum(n * (n + k) for k, n in enumerate(lengths))
    session.use("cache_policy", Keeping(0.5), "the test")
    cache = session.new_cache(condition)
    model.backbone([context[0]], condition, schedule, cache=cache)
    model.backbone([context[1]], condition, schedule, first=1, cache=cache)
    with pytest.raises(ConfigError, match="hides single tokens and a cache policy"):
        model.backbone([context[2]], condition, schedule, first=2, cache=cache)


def test_pictures_that_were_not_selected_are_not_drawn(model: Model) -> None:
    best = Answering({2: Select([3, 1])})
    drawn = list(generate_each(model, ["cat", "dog"], 2, callbacks=[best]))
    assert [(position, number) for position, number, _ in drawn] == [(1, 1), (0, 1)]
    plain = {(position, number): image for position, number, image in generate_each(model, ["cat", "dog"], 2)}
    for position, number, image in drawn:
        assert_close(image, plain[position, number], **CLOSE)


class Prefixed(Callback):
    """Sets tokens before the first scale."""

    needs = ("prefix",)

    def __init__(self, prefix: Tensor) -> None:
        self.prefix = prefix

    def on_condition(self, session: Any, condition: Condition) -> Condition:
        rows = self.prefix.expand(len(condition), -1, -1)
        null = condition.null and replace(condition.null, prefix=rows)
        return replace(condition, prefix=rows, null=null)


@pytest.mark.parametrize("visibility", [None, Visibility.own(4), Windows(Visibility.causal(4).sees)])
def test_a_prefix_is_seen_where_the_first_scale_is(model: Model, images: Tensor, visibility: Visibility | None) -> None:
    prefix = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(2)).requires_grad_()
    condition, schedule = model.backbone.condition([0, 1]), model.schedule
    session = open_session("generate", model, model.config.sampling, callbacks=[Prefixed(prefix)])
    if visibility:
        session.use("visibility", visibility, "the test")
    told, context = session.told(condition), encode_context(model, images)
    whole = model.backbone(context, told, schedule, visibility=session.visibility)
    [gradient] = torch.autograd.grad(whole.square().mean(), prefix)
    assert bool(gradient.abs().amax(2).all())
    cache, prepared = session.new_cache(told), model.backbone.prepared(told)
    with torch.no_grad():
        steps = [model.backbone([part], prepared, schedule, first=k, cache=cache) for k, part in enumerate(context)]
    assert_close(torch.cat(steps, dim=1), whole, **CLOSE)
    without = model.backbone(context, condition, schedule, visibility=session.visibility)
    differing = [not torch.allclose(whole[:, a:b], without[:, a:b], atol=1e-3) for a, b in schedule.spans]
    assert differing == [True] * 4 if visibility is None or isinstance(visibility, Windows) else [True, *[False] * 3]
    model.backbone.attention_backend = "dense"
    try:
        assert_close(model.backbone(context, told, schedule, visibility=session.visibility), whole, **CLOSE)
    finally:
        model.backbone.attention_backend = "auto"


def test_drawing_and_translating_behind_a_prefix(model: Model, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    prefixed, plain = Prefixed(torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(2))), draw(model)
    for settings in ({}, {"guidance": 2.0}):
        drawn = draw(model, prefixed, Answering({1: Select([1, 0]), 2: Rewind(1)}), **settings)
        assert not torch.allclose(drawn.logits, plain.logits, atol=1e-2)
        assert_close(drawn.logits, draw(model, prefixed, Forced(drawn), targets=(1, 0), **settings).logits, **CLOSE)
    with torch.no_grad():
        context, condition = encode_context(model, images), model.backbone.condition([0, 1])
        for mode in ("parallel", "serial"):
            config = TranslationConfig(mode=mode)  # type: ignore[arg-type]
            session = open_session("translate", model, config, callbacks=[prefixed])
            made = translate_context(model, context, condition, config, session=session)
            assert not torch.allclose(
                made.logits, translate_context(model, context, condition, config).logits, atol=1e-2
            )
    monkeypatch.setattr(Prefixed, "needs", ())
    monkeypatch.setattr(type(model.backbone), "capabilities", frozenset())
    with pytest.raises(ConfigError, match="a prefix is given, and the backbone of var lacks the capability 'prefix'"):
        draw(model, prefixed)
