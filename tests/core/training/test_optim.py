"""Learning rates, updates, frozen modules, the data stream."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cyclevar.core.config.loop import OptimizerConfig
from cyclevar.core.data.batches import UnpairedBatches
from cyclevar.core.data.datasets import open_dataset
from cyclevar.core.training.optim import (
    descend,
    frozen,
    gradient_norm,
    make_optimizer,
    moving_average,
    set_learning_rate,
)
from cyclevar.core.training.stream import Stream, step_random


def rates(config: OptimizerConfig, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=9.0)
    found = [set_learning_rate(optimizer, config, step, steps) for step in range(steps)]
    assert optimizer.param_groups[0]["lr"] == found[-1]
    return found


def test_the_rate_rises_linearly_and_stays() -> None:
    found = rates(OptimizerConfig(learning_rate=0.4, warmup=4), 8)
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4])


def test_the_rate_falls_by_a_half_cosine() -> None:
    found = rates(OptimizerConfig(learning_rate=1.0, warmup=2, decay="cosine"), 10)
    assert found[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert found[6] == pytest.approx(0.5)
    assert found[9] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))
    assert found[1:] == sorted(found[1:], reverse=True)


def test_a_step_has_random_numbers_of_its_own() -> None:
    first = step_random(0, 7).random()
    assert first == step_random(0, 7).random()
    assert len({first, step_random(0, 8).random(), step_random(1, 7).random(), step_random(7, 0).random()}) == 4


def test_there_may_be_no_warm_up() -> None:
    assert rates(OptimizerConfig(learning_rate=0.4, warmup=0), 2) == [0.4, 0.4]


def test_vectors_and_embeddings_are_not_decayed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 3)
            self.class_embedding = nn.Parameter(torch.zeros(4, 5))
            self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)

    net = Net()
    decayed, plain = make_optimizer(net, OptimizerConfig(learning_rate=1.0, weight_decay=0.3)).param_groups
    assert [p is net.linear.weight for p in decayed["params"]] == [True]
    assert {id(p) for p in plain["params"]} == {id(net.linear.bias), id(net.class_embedding)}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)


def test_an_update_descends_along_the_clipped_gradient(accelerator: Any) -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    for _ in range(2):  # the first gradient must not stay
        weight.data = torch.tensor([3.0, 4.0])
        norm = descend(accelerator, weight.square().sum(), optimizer, clip=5.0)
        assert norm.item() == pytest.approx(10.0)
        assert weight.tolist() == pytest.approx([3.0 - 0.5 * 3.0, 4.0 - 0.5 * 4.0], rel=1e-5)


def test_an_update_without_clipping(accelerator: Any) -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    descend(accelerator, weight.square().sum(), torch.optim.SGD([weight], lr=0.5))
    assert weight.tolist() == [0.0, 0.0]


def test_a_frozen_module_passes_gradients_on_and_keeps_its_own_choice() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    x = torch.ones(1, 2, requires_grad=True)
    with frozen(net):
        y = net(x).sum()
    y.backward()
    assert x.grad is not None
    assert all(p.grad is None for p in net.parameters())
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True]


def test_spectral_norms_of_a_frozen_module_stay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Dropout())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with frozen(net):
        net(torch.ones(1, 4))
        assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net(torch.ones(1, 4))
    assert any(not torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_norm_of_a_gradient_leaves_the_graph() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2
    loss = y.square().sum()
    assert gradient_norm(loss, y).item() == pytest.approx(math.hypot(4, 8))
    loss.backward()


def test_the_moving_average_follows() -> None:
    net = nn.Linear(1, 1, bias=False)
    average, by_hand = moving_average(net, 0.5), 0.0
    for count in range(12):
        net.weight.data.fill_(count**2)
        average.update_parameters(net)
        decay = min(0.5, (1 + count) / (10 + count)) if count else 0.0  # quick at first
        by_hand = decay * by_hand + (1 - decay) * count**2
        assert average.module.weight.item() == pytest.approx(by_hand)


def test_an_optimizer_is_one_fused_pass() -> None:
    net = nn.Linear(2, 3)
    optimizer = make_optimizer(net, OptimizerConfig(learning_rate=0.1, weight_decay=0.0))
    assert all(group["fused"] for group in optimizer.param_groups)
    plain = torch.optim.AdamW(copy.deepcopy(net).parameters(), lr=0.1, weight_decay=0.0)
    for one in (optimizer, plain):
        for group in one.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.arange(1.0, parameter.numel() + 1).view_as(parameter)
        one.step()
    [other] = [group["params"] for group in plain.param_groups]
    for mine, theirs in zip(net.parameters(), other, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_losses_are_added_up_and_made_one_by_one(accelerator: Any) -> None:
    weight, order = nn.Parameter(torch.tensor([1.0, 2.0])), []
    weight.register_post_accumulate_grad_hook(lambda _: order.append("backward"))

    def losses() -> Iterator[Tensor]:
        for factor in (2.0, 3.0):
            order.append("forward")
            yield factor * weight.sum()

    descend(accelerator, losses(), torch.optim.SGD([weight], lr=1.0))
    assert weight.tolist() == [-4.0, -3.0]
    assert order == ["forward", "backward"] * 2


def test_an_update_that_takes_longer_than_loading_never_waits(pictures: Path) -> None:
    batches = UnpairedBatches(open_dataset(pictures).train, 2, 16)
    load = batches.batch

    def slowly(step: int) -> tuple[Tensor, Tensor]:
        time.sleep(0.03)
        return load(step)

    batches.batch = slowly  # type: ignore[method-assign]
    stream, steps = Stream(batches, torch.device("cpu")), 8
    stream.batch(0)
    assert stream.waited() >= 0.03  # the first one has to be waited for
    for step in range(1, steps + 1):
        time.sleep(0.06)
        stream.batch(step)
    assert stream.waited() < 0.25 * 0.03 * steps


def test_the_stream_gives_the_batch_of_any_step(pictures: Path) -> None:
    batches = UnpairedBatches(open_dataset(pictures).train, 2, 16)
    stream = Stream(batches, torch.device("cpu"))
    for step in (0, 1, 2, 7, 8, 3):
        for got, wanted in zip(stream.batch(step), batches.batch(step), strict=True):
            assert torch.equal(got, wanted)
    assert stream.waited() > 0
    assert stream.waited() == 0
