"""The key-value cache: what it keeps, and that gradients change nothing but how."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cyclevar.core.attention.cache import CachePolicy, KeyValueCache, LayerView
from cyclevar.core.attention.plan import Visibility, plan_attention
from cyclevar.core.errors import ConfigError
from cyclevar.core.schedule import ScaleSchedule

SCHEDULE = ScaleSchedule.square(1, 2, 3)
SKIPPING = Visibility(((True, False, False), (True, True, False), (False, True, True)))
"""The finest scale does not see the coarsest."""


def keys() -> list[Tensor]:
    """One ``[B,l,H,D]`` a scale."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, length, 2, 4, generator=generator) for length in SCHEDULE.lengths]


def read(cache: KeyValueCache, parts: list[Tensor], layers: int = 2) -> list[tuple[Tensor, Tensor]]:
    """What layer 1 gets to see at every scale; the values are the keys doubled, layers differ by their sign."""
    seen = []
    for scale, part in enumerate(parts):
        for layer in range(layers):
            sign = 1 - 2 * layer
            key, value = cache.extend(layer, sign * part, 2 * sign * part)
            assert torch.equal(value, 2 * key)
        seen.append((key.clone(), value.clone()))
        cache.commit(range(scale, scale + 1))
    return seen


@pytest.mark.parametrize("gradients", [False, True])
def test_a_causal_cache_gives_all_that_came_before(gradients: bool) -> None:
    parts = keys()
    with torch.set_grad_enabled(gradients):
        seen = read(KeyValueCache(2, SCHEDULE), parts)
    for scale, (key, _) in enumerate(seen):
        assert torch.equal(key, -torch.cat(parts[: scale + 1], dim=1))


@pytest.mark.parametrize("gradients", [False, True])
def test_scales_that_nothing_will_see_are_dropped(gradients: bool) -> None:
    parts = keys()
    cache = KeyValueCache(1, SCHEDULE, SKIPPING)
    with torch.set_grad_enabled(gradients):
        kept, seen = [], []
        for scale, part in enumerate(parts):
            seen.append(cache.extend(0, part, 2 * part)[0].clone())
            cache.commit(range(scale, scale + 1))
            kept.append(cache.kept)
    assert kept == [(0,), (1,), ()]
    assert torch.equal(seen[1], torch.cat(parts[:2], dim=1))
    assert torch.equal(seen[2], torch.cat(parts[1:], dim=1))


def test_a_cache_of_scales_that_see_only_themselves_stays_empty() -> None:
    cache = KeyValueCache(1, SCHEDULE, Visibility.own(3))
    with torch.no_grad():
        for scale, part in enumerate(keys()):
            assert torch.equal(cache.extend(0, part, part)[0], part)
            cache.commit(range(scale, scale + 1))
            assert cache.kept == ()


@pytest.mark.parametrize("visibility", [Visibility.causal(3), SKIPPING, Visibility.last_alone(3), Visibility.own(3)])
def test_with_and_without_gradients_the_same_is_read(visibility: Visibility) -> None:
    results = []
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            results.append(read(KeyValueCache(2, SCHEDULE, visibility), keys()))
    for (key, value), (other_key, other_value) in zip(*results, strict=True):
        assert torch.equal(key, other_key)
        assert torch.equal(value, other_value)


def test_several_scales_can_come_at_once() -> None:
    parts = keys()
    cache = KeyValueCache(1, SCHEDULE, SKIPPING)
    with torch.no_grad():
        both = torch.cat(parts[:2], dim=1)
        assert torch.equal(cache.extend(0, both, both)[0], both)
        cache.commit(range(2))
        assert cache.kept == (1,)
        assert torch.equal(cache.extend(0, parts[2], parts[2])[0], torch.cat(parts[1:], dim=1))


def test_gradients_reach_every_cached_scale() -> None:
    parts = [part.requires_grad_() for part in keys()]
    cache = KeyValueCache(1, SCHEDULE)
    total = torch.zeros(())
    for scale, part in enumerate(parts):
        total = total + cache.extend(0, part, part)[0].sum()
        cache.commit(range(scale, scale + 1))
    gradients = torch.autograd.grad(total, parts)
    assert [float(gradient.mean()) for gradient in gradients] == [3.0, 2.0, 1.0]


def test_without_gradients_memory_is_taken_once() -> None:
    cache = KeyValueCache(1, SCHEDULE, SKIPPING)
    places = set()
    with torch.no_grad():
        for scale, part in enumerate(keys()):
            key, value = cache.extend(0, part, part)
            places.add((key.data_ptr(), value.data_ptr()))
            cache.commit(range(scale, scale + 1))
    assert len(places) == 1


def test_what_nothing_looks_back_at_takes_no_memory() -> None:
    cache = KeyValueCache(2, SCHEDULE, Visibility.own(3))
    with torch.no_grad():
        read(cache, keys())
    assert cache.tokens() == [0, 0]
    assert cache.nbytes() == 0


class First(CachePolicy):
    """Keeps of every scale the first ``share`` tokens of the first picture and the last ones of the second."""

    def __init__(self, kept: int) -> None:
        self.kept = kept

    def evict(self, view: LayerView) -> dict[int, Tensor] | None:
        if view.layer == 0:
            return None
        held = view.held[view.scale][0].shape[1]
        kept = min(self.kept, held)
        return {view.scale: torch.stack([torch.arange(kept), torch.arange(held - kept, held)])}


@pytest.mark.parametrize("gradients", [False, True])
def test_a_policy_drops_tokens_of_each_picture_and_layer(gradients: bool) -> None:
    parts, cache = keys(), KeyValueCache(2, SCHEDULE, policy=First(2))
    causal = Visibility.causal(3)
    seen, kept, held = [], list[Tensor](), list[list[int]]()
    with torch.set_grad_enabled(gradients):
        for scale, part in enumerate(parts):
            plan = plan_attention(SCHEDULE, causal, [scale], cache.kept)
            for layer in range(2):
                key, value = cache.extend(layer, part, 2 * part)
                assert torch.equal(value, 2 * key)
                [block] = cache.plan(layer, plan).blocks
                assert block.keys == ((0, key.shape[1]),)
                cache.settle(layer, part, 1.0)
            seen.append(key)
            cache.commit(range(scale, scale + 1))
            assert torch.equal(seen[-1], torch.cat([*kept, part], dim=1))
            count = min(2, part.shape[1])
            kept.append(torch.stack([part[0, :count], part[1, part.shape[1] - count :]]))
            held.append(cache.tokens())
    assert held == [[1, 1], [5, 3], [0, 0]]


def test_a_policy_and_scales_that_are_not_seen() -> None:
    parts, cache = keys(), KeyValueCache(2, SCHEDULE, SKIPPING, First(3))
    with torch.no_grad():
        for scale, part in enumerate(parts):
            plan = plan_attention(SCHEDULE, SKIPPING, [scale], cache.kept)
            for layer in range(2):
                key, _ = cache.extend(layer, part, part)
                moved = cache.plan(layer, plan)
                cache.settle(layer, part, 1.0)
            cache.commit(range(scale, scale + 1))
    assert moved.blocks[0].keys == ((0, 3 + 9),)
    assert key.shape[1] == 3 + 9


def test_a_policy_works_scale_by_scale() -> None:
    cache = KeyValueCache(2, SCHEDULE, policy=First(1))
    both = torch.cat(keys()[:2], dim=1)
    cache.extend(0, both, both)
    with pytest.raises(ConfigError, match="scale by scale"):
        cache.settle(0, both, 1.0)


@pytest.mark.parametrize("gradients", [False, True])
def test_selected_pictures_go_on(gradients: bool) -> None:
    parts, cache = keys(), KeyValueCache(1, SCHEDULE)
    with torch.set_grad_enabled(gradients):
        for scale, part in enumerate(parts):
            rows = torch.tensor([1, 0, 1]) if scale == 2 else torch.arange(2)
            cache.select(rows)
            key, _ = cache.extend(0, part[rows], part[rows])
            cache.commit(range(scale, scale + 1))
    assert torch.equal(key, torch.cat(parts, dim=1)[[1, 0, 1]])


def test_buffers_grow_when_more_comes_at_once_than_scale_by_scale() -> None:
    neighbours = Visibility(((True, False, False), (True, True, False), (False, True, True)))
    schedule = ScaleSchedule.square(2, 2, 2)
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, 4, 1, 2, generator=generator) for _ in range(3)]
    cache = KeyValueCache(1, schedule, neighbours)
    with torch.no_grad():
        cache.extend(0, parts[0], parts[0])
        cache.commit(range(1))
        both = torch.cat(parts[1:], dim=1)
        key, _ = cache.extend(0, both, both)
        assert torch.equal(key, torch.cat(parts, dim=1))
