"""Attention: block by block equals one call with a mask, in values and gradients; how the kernel is chosen."""

from __future__ import annotations

import importlib.util
import random

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.attention import kernels as attention
from cyclevar.core.attention.kernels import attend, choose_backend
from cyclevar.core.attention.plan import Visibility, dense_mask, plan_attention
from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.schedule import ScaleSchedule

SCHEDULE = ScaleSchedule(((1, 1), (1, 2), (2, 3), (4, 4)))
SCALES = len(SCHEDULE)


def scattered(seed: int) -> Visibility:
    """Every scale sees a random choice, finer ones too, and at least one."""
    draw = random.Random(seed)
    rows = [[draw.random() < 0.5 for _ in range(SCALES)] for _ in range(SCALES)]
    for row in rows:
        row[draw.randrange(SCALES)] = True
    return Visibility(tuple(map(tuple, rows)))


VISIBILITIES = {
    "causal": Visibility.causal(SCALES),
    "own": Visibility.own(SCALES),
    "last_alone": Visibility.last_alone(SCALES),
    **{f"scattered{seed}": scattered(seed) for seed in range(5)},
}


def inputs(device: str = "cpu", dtype: torch.dtype = torch.float32, width: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, SCHEDULE.total, 3, width, generator=generator).to(device, dtype).requires_grad_()
        for _ in range(3)
    ]


def run(backend: str, visibility: Visibility, tensors: list[Tensor]) -> list[Tensor]:
    """The output and the gradients to query, key and value."""
    plan = plan_attention(SCHEDULE, visibility, range(SCALES), backend=backend)
    out = attend(tensors[0], tensors[1], tensors[2], plan, 0.7)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out, *torch.autograd.grad((out * probe).sum(), tensors)]


@pytest.mark.parametrize("name", VISIBILITIES)
def test_blocks_equal_one_masked_call(name: str) -> None:
    blocks, dense = (run(b, VISIBILITIES[name], inputs(dtype=torch.float64)) for b in ("sdpa", "dense"))
    for one, other in zip(blocks, dense, strict=True):
        assert_close(one, other, atol=1e-12, rtol=1e-12)


@pytest.mark.cuda
@pytest.mark.parametrize("name", VISIBILITIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_xformers_equals_one_masked_call(name: str, dtype: torch.dtype, tolerance: float) -> None:
    if choose_backend(torch.device("cuda"))[0] != "xformers":
        pytest.skip(choose_backend(torch.device("cuda"))[1])
    fast, dense = (run(b, VISIBILITIES[name], inputs("cuda", dtype, width=64)) for b in ("xformers", "dense"))
    for one, other in zip(fast, dense, strict=True):
        assert_close(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", VISIBILITIES)
def test_the_masked_call_is_a_softmax_over_what_is_seen(name: str) -> None:
    query, key, value = inputs(dtype=torch.float64)
    scale_of = torch.repeat_interleave(torch.arange(SCALES), torch.tensor(SCHEDULE.lengths))
    sees = torch.tensor(VISIBILITIES[name].sees)[scale_of][:, scale_of]
    plan = plan_attention(SCHEDULE, VISIBILITIES[name], range(SCALES))
    assert torch.equal(dense_mask(plan, SCHEDULE.total, SCHEDULE.total, torch.device("cpu")), sees)
    weights = (torch.einsum("bqhd,bkhd->bhqk", query, key) * 0.7).masked_fill(~sees, -torch.inf).softmax(-1)
    expected = torch.einsum("bhqk,bkhd->bqhd", weights, value)
    assert_close(run("sdpa", VISIBILITIES[name], [query, key, value])[0], expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["causal", "own", "last_alone"])
def test_scale_by_scale_equals_all_at_once(name: str) -> None:
    visibility = VISIBILITIES[name]
    query, key, value = inputs()
    whole = run("sdpa", visibility, [query, key, value])[0]
    for scale, (begin, end) in enumerate(SCHEDULE.spans):
        plan = plan_attention(SCHEDULE, visibility, [scale], kept=range(scale))
        assert_close(attend(query[:, begin:end], key[:, :end], value[:, :end], plan, 0.7), whole[:, begin:end])


def test_neighbouring_ranges_are_read_as_one() -> None:
    plan = plan_attention(SCHEDULE, Visibility.causal(SCALES), range(SCALES))
    assert [block.keys for block in plan.blocks] == [((0, end),) for _, end in SCHEDULE.spans]
    sees = ((True,) * 4, (True,) * 4, (True, False, True, False), (True,) * 4)
    assert plan_attention(SCHEDULE, Visibility(sees), [2], kept=[0, 1]).blocks[0].keys == ((0, 1), (3, 9))


def test_what_later_scales_need() -> None:
    assert Visibility.causal(3).needed_after(0) == (True, True, True)
    assert Visibility.causal(3).needed_after(1) == (True, True, True)
    assert Visibility.causal(3).needed_after(2) == (False, False, False)
    assert Visibility.own(3).needed_after(0) == (False, True, True)
    assert Visibility.last_alone(3).needed_after(1) == (False, False, True)


def test_a_plan_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="made for 3 scales; expected 4, as in 1-1x2-2x3-4"):
        plan_attention(SCHEDULE, Visibility.causal(3), range(SCALES))
    with pytest.raises(ConfigError, match="scale 2 sees scale 1, which is neither given nor cached"):
        plan_attention(SCHEDULE, Visibility.causal(SCALES), [2], kept=[0])
    with pytest.raises(ConfigError, match="scale 1 sees nothing"):
        plan_attention(SCHEDULE, Visibility(((True,) * 4, (False,) * 4, (True,) * 4, (True,) * 4)), range(SCALES))


class TestChoice:
    """Which kernel runs, and why."""

    @pytest.fixture(autouse=True)
    def _forget(self) -> None:
        choose_backend.cache_clear()

    def test_on_the_processor(self) -> None:
        assert choose_backend(torch.device("cpu")) == ("sdpa", "xformers does not run on cpu")
        assert choose_backend(torch.device("cpu"), "dense") == ("dense", "asked for")
        with pytest.raises(ConfigError, match="xformers does not run on cpu; expected auto, sdpa or dense"):
            choose_backend(torch.device("cpu"), "xformers")

    def test_the_nearest_name_is_offered(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'xformers'"):
            choose_backend(torch.device("cpu"), "xformer")

    def test_without_xformers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert choose_backend(torch.device("cuda")) == ("sdpa", "xformers is not installed")

    def test_with_an_xformers_that_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*kind: object) -> str:
            raise OSError("undefined symbol: aoti\nmore")

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        monkeypatch.setattr(attention, "form_problem", broken)
        assert choose_backend(torch.device("cuda")) == ("sdpa", "xformers fails on cuda (undefined symbol: aoti)")
        with pytest.raises(ConfigError, match="undefined symbol"):
            choose_backend(torch.device("cuda"), "xformers")

    def test_with_an_xformers_that_works(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        monkeypatch.setattr(attention, "form_problem", lambda *kind: "")
        assert choose_backend(torch.device("cuda"))[0] == "xformers"
        monkeypatch.setattr(attention, "form_problem", lambda *kind: "no operator")
        choose_backend.cache_clear()
        assert choose_backend(torch.device("cuda")) == ("sdpa", "xformers fails on cuda (no operator)")
