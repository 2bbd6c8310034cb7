"""The key-value cache: what it keeps, and that gradients change nothing but how."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cyclevar.core.attention import Visibility
from cyclevar.core.cache import KeyValueCache
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
