"""Transformer parts: what they must not depend on, and their special cases."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from cyclevar.core.attention.cache import KeyValueCache
from cyclevar.core.attention.plan import AttentionPlan, Visibility, plan_attention
from cyclevar.core.networks.transformer import (
    AdaLNBlock,
    FeedForward,
    SelfAttention,
    Text,
    TextAttention,
    exact,
    rotate,
)
from cyclevar.core.schedule import ScaleSchedule

WIDTH, HEADS = 16, 2
SCHEDULE = ScaleSchedule.square(1, 2)
PLAN = plan_attention(SCHEDULE, Visibility.causal(2), range(2))
ALL = plan_attention(ScaleSchedule(((1, 5),)), Visibility.causal(1), range(1))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(3, 5, WIDTH)


def widened(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def attend(module: nn.Module, tokens: Tensor, plan: AttentionPlan = PLAN, cache: KeyValueCache | None = None) -> Tensor:
    out: Tensor = module(tokens, plan, cache, 0)
    return out


def make_block(**settings: bool | float) -> AdaLNBlock:
    options = {"shared_modulation": False, "qk_norm": True, "norm_eps": 1e-6, **settings}
    block = AdaLNBlock(WIDTH, HEADS, 2 * WIDTH, **options)  # type: ignore[arg-type]
    widened(block)
    return block


def run(block: AdaLNBlock, tokens: Tensor, condition: Tensor) -> Tensor:
    out: Tensor = block(tokens, condition, PLAN, None, 0)
    return out


def test_attention_without_normalisation_is_the_textbook_one(tokens: Tensor) -> None:
    module = SelfAttention(WIDTH, HEADS, qk_norm=False)
    widened(module)
    query, key, value = F.linear(tokens, module.qkv.weight).chunk(3, dim=-1)
    query, value = query + module.query_bias, value + module.value_bias
    parts = []
    for head in range(HEADS):
        q, k, v = (part[..., head * 8 : head * 8 + 8] for part in (query, key, value))
        parts.append((q @ k.transpose(1, 2) * 0.25 / math.sqrt(8)).softmax(-1) @ v)
    assert_close(attend(module, tokens, ALL), module.out(torch.cat(parts, dim=-1)), atol=1e-5, rtol=1e-5)


def test_normalised_attention_ignores_the_length_of_queries_and_keys(tokens: Tensor) -> None:
    module = SelfAttention(WIDTH, HEADS, qk_norm=True)
    widened(module)
    before = attend(module, tokens)
    with torch.no_grad():
        module.qkv.weight[: 2 * WIDTH] *= 3
        module.query_bias *= 3
    assert_close(attend(module, tokens), before)


def test_the_learned_scale_stops_at_one_hundred(tokens: Tensor) -> None:
    module = SelfAttention(WIDTH, HEADS, qk_norm=True)
    assert_close(module.log_scale.exp(), torch.full((1, HEADS, 1, 1), 4.0))
    module.log_scale.data.fill_(math.log(100))
    at_limit = attend(module, tokens)
    module.log_scale.data.fill_(50.0)
    assert_close(attend(module, tokens), at_limit)
    module.log_scale.data.fill_(1.0)
    assert not torch.allclose(attend(module, tokens), at_limit)


def test_attention_keeps_the_order_of_tokens_within_a_scale(tokens: Tensor) -> None:
    module = SelfAttention(WIDTH, HEADS, qk_norm=True)
    order = torch.tensor([0, 3, 1, 4, 2])
    assert_close(attend(module, tokens[:, order]), attend(module, tokens)[:, order])


def test_a_step_with_a_cache_equals_the_whole(tokens: Tensor) -> None:
    module = SelfAttention(WIDTH, HEADS, qk_norm=True)
    cache = KeyValueCache(1, SCHEDULE)
    parts = []
    for scale, (begin, end) in enumerate(SCHEDULE.spans):
        plan = plan_attention(SCHEDULE, cache.visibility, [scale], cache.kept)
        parts.append(attend(module, tokens[:, begin:end], plan, cache))
        cache.commit(range(scale, scale + 1))
    assert_close(torch.cat(parts, dim=1), attend(module, tokens))


def test_the_feed_forward_part(tokens: Tensor) -> None:
    module = FeedForward(WIDTH, 32)
    h = module.up(tokens)
    gelu = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    assert_close(module(tokens), module.down(gelu))


def test_a_block_with_closed_gates_does_nothing(tokens: Tensor) -> None:
    block = make_block()
    with torch.no_grad():
        block.modulation.weight[: 2 * WIDTH] = 0
        block.modulation.bias[: 2 * WIDTH] = 0
    assert torch.equal(run(block, tokens, torch.randn(3, WIDTH)), tokens)


def test_a_block_written_out(tokens: Tensor) -> None:
    block = make_block()
    condition = torch.randn(3, WIDTH)
    six = block.modulation(F.silu(condition)).view(3, 1, 6, WIDTH)
    gate1, gate2, scale1, scale2, shift1, shift2 = (six[:, :, i] for i in range(6))

    def norm(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()

    x = tokens + gate1 * attend(block.attention, norm(tokens) * (1 + scale1) + shift1)
    x = x + gate2 * block.feed_forward(norm(x) * (1 + scale2) + shift2)
    assert_close(run(block, tokens, condition), x, atol=1e-4, rtol=1e-4)


def test_shared_modulation_without_an_offset_is_the_blocks_own(tokens: Tensor) -> None:
    own, shared = make_block(), make_block(shared_modulation=True)
    common = {name: tensor for name, tensor in own.state_dict().items() if not name.startswith("modulation")}
    shared.load_state_dict(common | {"modulation_offset": torch.zeros(1, 1, 6, WIDTH)})
    condition = torch.randn(3, WIDTH)
    six = own.modulation(F.silu(condition))
    assert_close(run(shared, tokens, six), run(own, tokens, condition))
    shared.load_state_dict(common | {"modulation_offset": six[:1].view(1, 1, 6, WIDTH)})
    assert_close(run(shared, tokens[:1], torch.zeros_like(six[:1])), run(own, tokens[:1], condition[:1]))


def test_dropped_branches_leave_rows_as_they_are_and_keep_the_mean() -> None:
    block = make_block(drop_path=0.25)
    branch = torch.ones(4000, 1, WIDTH)
    dropped = block.train()._dropped(branch)
    per_row = dropped.flatten(1)
    assert bool((per_row == per_row[:, :1]).all())
    assert_close(per_row.unique(), torch.tensor([0, 4 / 3]))
    assert float(per_row.mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(block.eval()._dropped(branch), branch)


def test_a_block_that_never_drops_draws_nothing(tokens: Tensor) -> None:
    block = make_block(drop_path=0.0).train()
    state = torch.get_rng_state()
    run(block, tokens, torch.zeros(3, WIDTH))
    assert torch.equal(state, torch.get_rng_state())


def test_rotating_keeps_lengths_and_makes_products_follow_the_difference_of_angles() -> None:
    query, key = torch.randn(2, 5, 3, 8), torch.randn(2, 5, 3, 8)
    frequencies = torch.tensor([1.0, 0.3, 0.1, 0.01])

    def at(positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions[:, None] * frequencies
        return angles.cos(), angles.sin()

    here, there = torch.arange(5.0), torch.arange(5.0) + 3
    assert_close(rotate(query, at(here)).norm(dim=-1), query.norm(dim=-1))
    assert_close(rotate(query, at(torch.zeros(5))), query)
    products = [(rotate(query, at(p)) * rotate(key, at(p + 2))).sum(-1) for p in (here, there)]
    assert_close(products[0], products[1], atol=1e-5, rtol=1e-4)
    turned = rotate(torch.tensor([1.0, 0, 0, 1]).view(1, 1, 1, 4), (torch.zeros(1, 2), torch.ones(1, 2)))
    assert turned.flatten().tolist() == [0, 1, -1, 0]  # a quarter turn of every pair


def test_attention_to_a_text_ignores_padding() -> None:
    torch.manual_seed(0)
    attention = TextAttention(16, 2)
    x, tokens = torch.randn(2, 5, 16), torch.randn(2, 4, 16)
    present = torch.tensor([[True] * 4, [True, True, False, False]])
    out = attention(x, Text(tokens, present))
    assert_close(out[0], attention(x[:1], Text(tokens[:1]))[0])
    assert_close(out[1], attention(x[1:], Text(tokens[1:, :2]))[0])
    key, value = attention.key_value(tokens[:1]).chunk(2, dim=-1)
    heads = [part.unflatten(-1, (2, 8)).transpose(1, 2) for part in (attention.query(x[:1]), key, value)]
    weights = (heads[0] @ heads[1].transpose(-1, -2) / 8**0.5).softmax(-1)
    expected = attention.out((weights @ heads[2]).transpose(1, 2).flatten(2) + attention.value_bias)
    assert_close(out[:1], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exact_layers_are_float32(dtype: torch.dtype) -> None:
    layer = nn.Linear(8, 4).to(dtype)
    x = torch.randn(3, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = exact(layer, x)
    assert out.dtype == torch.float32
    assert_close(out, x @ layer.weight.float().T + layer.bias.float())
