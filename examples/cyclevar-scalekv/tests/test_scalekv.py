"""A tenth of the cache is a tenth, what stays is what the queries look at, and the whole cache changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cyclevar_scalekv.budgets import Budgets, allot, uniform
from cyclevar_scalekv.calibrate import Selectivity, calibrate
from cyclevar_scalekv.config import ScaleKvConfig
from cyclevar_scalekv.policy import ScaleKvPolicy, attention, observation_window
from torch import Tensor
from torch.testing import assert_close

from cyclevar.cli.main import main
from cyclevar.core.attention.cache import CachePolicy, KeyValueCache, LayerView
from cyclevar.core.errors import ConfigError
from cyclevar.core.models.catalog import open_model
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.generation import Generation, generate
from cyclevar.core.next_scale.pyramid import teacher_inputs
from cyclevar.core.schedule import ScaleSchedule


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model("var", "tiny").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def drawn(model: Model) -> Generation:
    return generate(model, model.backbone.condition(["noto", "fluent"]), seed=3)


@pytest.fixture(scope="module")
def cached_logits(model: Model, drawn: Generation) -> Callable[[CachePolicy | None], tuple[Tensor, list[list[int]]]]:
    """Logits of the drawn pictures, computed step by step, and the tokens held after every scale."""
    maps = [model.tokenizer.quantizer.lookup(codes).movedim(-1, 1) for codes in drawn.codes]
    condition = model.backbone.condition(["noto", "fluent"])

    def run(policy: CachePolicy | None) -> tuple[Tensor, list[list[int]]]:
        cache = KeyValueCache(model.backbone.depth, model.schedule, policy=policy)
        logits, held = [], []
        for scale, part in enumerate(teacher_inputs(model.tokenizer, maps, model.schedule)):
            logits.append(model.backbone([part], condition, model.schedule, first=scale, cache=cache))
            held.append(cache.tokens())
        return torch.cat(logits, dim=1), held

    return run


def random_view(scale: int = 3) -> LayerView:
    schedule = ScaleSchedule.square(1, 2, 4, 6, 8)
    random = torch.Generator().manual_seed(0)
    held = {
        k: (torch.randn(2, schedule.lengths[k], 3, 8, generator=random), torch.randn(2, schedule.lengths[k], 3, 8))
        for k in range(scale + 1)
    }
    query = torch.randn(2, schedule.lengths[scale], 3, 8, generator=random)
    return LayerView(0, 2, schedule, scale, query, *held[scale], 0.4, held)


def test_a_tenth_of_the_cache_is_left_before_the_last_scale(
    model: Model, cached_logits: Callable[[CachePolicy | None], tuple[Tensor, list[list[int]]]]
) -> None:
    _, every = cached_logits(None)
    _, kept = cached_logits(ScaleKvPolicy(ScaleKvConfig(share=0.1)))
    before_last = len(model.schedule) - 2
    assert every[before_last] == [model.schedule.total - model.schedule.lengths[-1]] * model.backbone.depth
    assert 0.09 < sum(kept[before_last]) / sum(every[before_last]) <= 0.1
    assert all(sum(few) <= sum(many) for few, many in zip(kept[:-1], every, strict=False))


def test_the_whole_cache_changes_nothing(model: Model, drawn: Generation) -> None:
    condition = model.backbone.condition(["noto", "fluent"])
    same = generate(model, condition, seed=3, extensions={"cache_policy": {"scalekv": {"share": 1.0}}})
    assert torch.equal(same.image, drawn.image)
    less = generate(model, condition, seed=3, extensions={"cache_policy": {"scalekv": {}}})
    assert not torch.equal(less.image, drawn.image)


def test_the_next_scale_looks_at_what_stays(
    cached_logits: Callable[[CachePolicy | None], tuple[Tensor, list[list[int]]]],
) -> None:
    """At more of it, that is, than at as many tokens of the history at random."""

    class Compared(CachePolicy):
        def __init__(self) -> None:
            self.policy, self.staying, self.shares = ScaleKvPolicy(ScaleKvConfig(share=0.1)), {}, []

        def evict(self, view: LayerView) -> None:
            """Drops nothing, but notes the part of the attention and that of the tokens that would have stayed."""
            if staying := self.staying.get(view.layer):
                weights = attention(view, torch.arange(view.query.shape[1])).mean((0, 1, 2))
                parts = weights.split([keys.shape[1] for keys, _ in view.held.values()])[:-1]
                kept = [part[staying[k][0]] if k in staying else part for k, part in enumerate(parts)]
                one, other = torch.cat(kept), torch.cat(parts)
                self.shares.append((float(one.sum() / other.sum()), len(one) / len(other)))
            self.staying[view.layer] = self.policy.evict(view)

    compared = Compared()
    cached_logits(compared)
    attended, held = torch.tensor(compared.shares).T
    assert len(held) >= 12
    assert bool((attended > held).all())
    assert float(attended[-4:].mean()) > 2 * float(held[-4:].mean())  # in the last scale, which sees most


def test_the_observation_window_and_what_it_looks_at_most_stay() -> None:
    view = random_view()
    config = ScaleKvConfig(share=0.4, window=4)
    staying = ScaleKvPolicy(config).evict(view)
    assert staying is not None
    window = observation_window((6, 6), 4)
    assert set(window.tolist()) <= set(staying[3][0].tolist())
    budget = uniform(view.schedule, 0.4)
    kept = {
        k: set(staying[k][0].tolist()) if k in staying else set(range(part[0].shape[1]))
        for k, part in view.held.items()
    }
    assert sum(map(len, kept.values())) == budget
    seen = attention(view, window).sum(2).mean((0, 1)).split([part[0].shape[1] for part in view.held.values()])
    least = min(float(seen[k][i]) for k in kept for i in kept[k] if k < 3 or i not in window.tolist())
    most = max(float(seen[k][i]) for k in kept for i in range(len(seen[k])) if i not in kept[k])
    assert most <= least


def test_attention_is_softmax_of_all_that_is_held() -> None:
    view = random_view()
    weights = attention(view, torch.arange(36))
    assert weights.shape == (2, 3, 36, 1 + 4 + 16 + 36)
    assert_close(weights.sum(-1), torch.ones(2, 3, 36))
    values = torch.cat([value for _, value in view.held.values()], dim=1)
    mixed = torch.einsum("bhqk,bkhd->bqhd", weights, values)
    keys = torch.cat([key for key, _ in view.held.values()], dim=1)
    query, keys, values = (part.transpose(1, 2) for part in (view.query, keys, values))
    kernel = torch.nn.functional.scaled_dot_product_attention(query, keys, values, scale=0.4)
    assert_close(mixed, kernel.transpose(1, 2))


def test_an_observation_window_is_spread_over_the_map() -> None:
    assert observation_window((8, 8), 16).tolist() == [9, 11, 13, 15, 25, 27, 29, 31, 41, 43, 45, 47, 57, 59, 61, 63]
    assert observation_window((1, 1), 16).tolist() == [0]
    assert observation_window((2, 3), 16).tolist() == [0, 1, 2, 3, 4, 5]


def test_drafters_get_what_refiners_save() -> None:
    schedule = ScaleSchedule.square(1, 2, 4, 6, 8, 10)
    index = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    budgets = allot(index, schedule, 0.2, 0.25)
    assert sum(map(sum, budgets.drafters)) == 10  # a quarter of 5 scales x 8 layers
    equal = uniform(schedule, 0.2)
    for scale, (tokens, drafting) in enumerate(zip(budgets.tokens, budgets.drafters, strict=True)):
        there = schedule.spans[scale][1]
        if there <= equal:
            assert tokens == [there] * 8
            continue
        assert sum(tokens) <= 8 * equal
        if any(drafting) and not all(drafting):
            assert sum(tokens) > 7 * equal
            few = max(kept for kept, far in zip(tokens, drafting, strict=True) if not far)
            assert few < equal < min(kept for kept, far in zip(tokens, drafting, strict=True) if far)
            assert max(index[scale + 1][torch.tensor(drafting)]) < min(index[scale + 1][~torch.tensor(drafting)])


def test_selectivity_is_high_for_layers_that_look_at_little() -> None:
    found = Selectivity(5, 2, top=2)
    view = random_view()
    sharp = LayerView(**{**vars(view), "factor": 8.0, "layer": 1})
    assert found.evict(view) is None
    assert found.evict(sharp) is None
    weights = attention(view, observation_window((6, 6), 64))
    current = weights[..., -36:].sum(-1).mean()
    top = weights[..., :-36].sort(-1).values[..., -2:].sum(-1).mean()
    assert_close(found.index[3, 0], current * top)
    assert found.index[3, 1] > found.index[3, 0]


def test_the_command_writes_budgets_that_are_used(
    model: Model, drawn: Generation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "budgets.json"
    assert main(["scalekv", "calibrate", "--count", "2", "--share", "0.3", "--out", str(out)]) == 0
    assert "after 8x8:" in capsys.readouterr().out
    assert Budgets.load(out) == calibrate(model, ["noto", "fluent"], share=0.3)
    settings = {"cache_policy": {"scalekv": {"budgets": str(out)}}}
    condition = model.backbone.condition(["noto", "fluent"])
    assert not torch.equal(generate(model, condition, seed=3, extensions=settings).image, drawn.image)


def test_budgets_of_another_model_are_refused(model: Model, tmp_path: Path) -> None:
    condition = model.backbone.condition(["noto"])

    def draw() -> None:
        generate(model, condition, extensions={"cache_policy": {"scalekv": {"budgets": str(tmp_path / "b.json")}}})

    with pytest.raises(ConfigError, match="`cyclevar scalekv calibrate` makes one"):
        draw()
    allot(torch.rand(3, 4), ScaleSchedule.square(1, 2, 3), 0.1, 0.5).save(tmp_path / "b.json")
    with pytest.raises(ConfigError, match="is for the schedule 1-2-3 and 4 layers"):
        draw()
    (tmp_path / "b.json").write_text(json.dumps({"tokens": []}))
    with pytest.raises(ConfigError, match="expected a file of budgets"):
        draw()
