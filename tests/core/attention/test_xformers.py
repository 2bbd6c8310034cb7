"""xformers' forms of a plan: the same as block by block; what xformers is told; which operators it would choose.

Its kernels run on a GPU alone. On a CPU a stand-in takes their place, which makes a dense mask of what they are told.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from cyclevar.core.attention import kernels as attention
from cyclevar.core.attention import xformers as xformers_attention
from cyclevar.core.attention.kernels import attend, choose_backend
from cyclevar.core.attention.plan import AttentionPlan, Visibility, dense_mask, plan_attention
from cyclevar.core.attention.xformers import (
    Form,
    Operators,
    attend_in_form,
    attend_planned,
    choose_form,
    form_problem,
    load_xformers,
    make_bias,
    operators,
)
from cyclevar.core.schedule import ScaleSchedule

if importlib.util.find_spec("xformers") is None:
    pytest.skip("xformers is not installed", allow_module_level=True)

SCHEDULE = ScaleSchedule(((1, 1), (1, 2), (2, 3), (4, 4)))
SCALES, CPU, GPU = len(SCHEDULE), torch.device("cpu"), torch.device("cuda")


def plan(visibility: Visibility, scales: range = range(SCALES), kept: range = range(0)) -> AttentionPlan:
    return plan_attention(SCHEDULE, visibility, scales, kept)


ONE_RANGE = {
    "causal": plan(Visibility.causal(SCALES)),
    "own": plan(Visibility.own(SCALES)),
    "last alone": plan(Visibility.last_alone(SCALES)),
    "two at once, two cached": plan(Visibility.causal(SCALES), range(2, 4), range(2)),
    "last step": plan(Visibility.causal(SCALES), range(3, 4), range(3)),
}
"""Plans whose scales see one range each."""

PLANS = ONE_RANGE | {
    "scattered": plan(Visibility(tuple(tuple(map(bool, map(int, row))) for row in ("1010", "1100", "0101", "1011"))))
}
CASES = [
    *((name, form) for name in ONE_RANGE for form in ("overlapping", "gathered", "each")),
    *(("scattered", form) for form in ("gathered", "each")),
]


def ranges(of: AttentionPlan) -> xformers_attention.Ranges:
    return tuple((block.queries, block.keys) for block in of.blocks)


def inputs(of: AttentionPlan, batch: int = 3, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Query, key and value; the keys are one piece of a larger buffer, as those of a cache."""
    generator = torch.Generator().manual_seed(0)
    queries = of.blocks[-1].queries[1]
    keys = max(high for block in of.blocks for _, high in block.keys)
    query, *others = (
        torch.randn(batch, rows, 2, 16, generator=generator).to(device, dtype).requires_grad_()
        for rows in (queries, SCHEDULE.total + 2, SCHEDULE.total + 2)
    )
    return [query, *(buffer[:, :keys] for buffer in others)]


def with_gradients(out: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out, *torch.autograd.grad((out * probe).sum(), tensors)]


def told(query: Tensor, key: Tensor, value: Tensor, attn_bias: Any = None, scale: float = 1.0) -> Tensor:
    """What xformers' kernel computes, by the mask that it is told; what xformers would refuse is refused."""
    load_xformers().Inputs(query=query, key=key, value=value, attn_bias=attn_bias, scale=scale).validate_inputs()
    mask = None if attn_bias is None else attn_bias.materialize((query.shape[1], key.shape[1])).to(query.dtype)
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    for remembered in (choose_backend, form_problem, operators):
        remembered.cache_clear()
    yield
    for remembered in (choose_backend, form_problem, operators):
        remembered.cache_clear()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Tensor]], None]:
    """Puts a function in the place of xformers' kernel, on the CPU, which then has operators for everything."""
    masks = load_xformers().attn_bias

    def put(function: Callable[..., Tensor]) -> None:
        module = SimpleNamespace(attn_bias=masks, memory_efficient_attention=function)
        monkeypatch.setattr(xformers_attention, "load_xformers", lambda: module)
        monkeypatch.setattr(xformers_attention, "operators", lambda *kind: Operators("stand-in", "stand-in"))

    return put


class TestForms:
    """Every form against the masked call."""

    @pytest.mark.parametrize(("name", "form"), CASES)
    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("gradient", [False, True])
    def test_equals_one_masked_call(
        self, kernel: Callable[..., None], name: str, form: Form, batch: int, gradient: bool
    ) -> None:
        kernel(told)
        tensors, of = inputs(PLANS[name], batch), PLANS[name]
        dense = attend(*tensors, AttentionPlan(of.blocks, "dense"), 0.7)
        with torch.set_grad_enabled(gradient):
            out = attend_in_form(form, *tensors, ranges(of), 0.7, gradient)
        if not gradient:
            assert_close(out, dense)
            return
        for one, other in zip(with_gradients(out, tensors), with_gradients(dense, tensors), strict=True):
            assert_close(one, other)

    @pytest.mark.cuda
    @pytest.mark.parametrize(("name", "form"), CASES)
    @pytest.mark.parametrize("gradient", [False, True])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
    def test_on_a_gpu(self, name: str, form: Form, gradient: bool, dtype: torch.dtype, tolerance: float) -> None:
        if operators(form, gradient, GPU, dtype, 16).problem:
            assert form == "overlapping", operators(form, gradient, GPU, dtype, 16).problem
            assert gradient or dtype == torch.float32
            return
        assert form_problem(form, gradient, GPU, dtype, 16) == ""
        tensors, of = inputs(PLANS[name], device="cuda", dtype=dtype), PLANS[name]
        dense = attend(*tensors, AttentionPlan(of.blocks, "dense"), 0.7)
        with torch.set_grad_enabled(gradient):
            out = attend_in_form(form, *tensors, ranges(of), 0.7, gradient)
        if not gradient:
            assert_close(out, dense, atol=tolerance, rtol=tolerance)
            return
        for one, other in zip(with_gradients(out, tensors), with_gradients(dense, tensors), strict=True):
            assert_close(one, other, atol=tolerance, rtol=tolerance)

    @pytest.mark.cuda
    def test_nothing_waits_for_the_gpu(self) -> None:
        of, tensors = PLANS["causal"], [part.detach() for part in inputs(PLANS["causal"], 2, "cuda", torch.bfloat16)]
        attend_planned(*tensors, of, 0.7)
        torch.cuda.set_sync_debug_mode("error")
        try:
            attend_planned(*tensors, of, 0.7)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_one_call_for_all_scales(self, kernel: Callable[..., None]) -> None:
        calls = []
        kernel(lambda *tensors, **settings: calls.append(settings["attn_bias"]) or told(*tensors, **settings))
        tensors = inputs(PLANS["causal"], 1)
        with torch.no_grad():
            attend_in_form("overlapping", *tensors, ranges(PLANS["causal"]), 0.7, False)
        attend_in_form("gathered", *tensors, ranges(PLANS["causal"]), 0.7, True)
        assert [type(bias).__name__ for bias in calls] == ["BlockDiagonalGappyKeysMask", "BlockDiagonalMask"]

    def test_keys_are_brought_to_the_type_of_the_queries(self, kernel: Callable[..., None]) -> None:
        kernel(told)
        query, key, value = (part.detach() for part in inputs(PLANS["causal"]))
        out = attend_in_form("gathered", query.bfloat16(), key, value, ranges(PLANS["causal"]), 0.7, False)
        assert out.dtype == torch.bfloat16


class TestBias:
    """The masks that xformers is told."""

    @pytest.mark.parametrize("name", ONE_RANGE)
    @pytest.mark.parametrize("batch", [1, 2])
    def test_overlapping_ranges_are_the_dense_mask_of_every_picture(self, name: str, batch: int) -> None:
        of = PLANS[name]
        rows, keys = of.blocks[-1].queries[1], max(high for block in of.blocks for _, high in block.keys)
        bias = make_bias(
            tuple(high - low for (low, high), _ in ranges(of)),
            tuple(low for _, [(low, _)] in ranges(of)),
            tuple(high - low for _, [(low, high)] in ranges(of)),
            batch,
            keys,
            CPU,
        )
        seen = bias.materialize((batch * rows, batch * keys)) == 0
        assert torch.equal(seen, torch.block_diag(*[dense_mask(of, rows, keys, CPU)] * batch).bool())

    def test_is_made_once(self) -> None:
        one, other = (make_bias((1, 2), (0, 0), (1, 3), 2, 3, CPU) for _ in range(2))
        assert one is other
        assert make_bias((1, 2), (0, 0), (1, 3), 1, 3, CPU) is not one


class TestChoice:
    """Which form is taken."""

    def test_on_the_processor_none(self) -> None:
        assert choose_form(ranges(PLANS["causal"]), False, CPU, torch.float32, 16) is None

    @pytest.mark.parametrize(
        ("name", "gradient", "form"),
        [
            ("causal", False, "overlapping"),
            ("causal", True, "gathered"),
            ("last alone", False, "overlapping"),
            ("scattered", False, "gathered"),
            ("last step", False, "each"),
            ("last step", True, "each"),
        ],
    )
    def test_where_all_work(self, kernel: Callable[..., None], name: str, gradient: bool, form: Form) -> None:
        kernel(told)
        assert choose_form(ranges(PLANS[name]), gradient, CPU, torch.float32, 16) == form

    def test_what_fails_or_errs_is_not_used(self, kernel: Callable[..., None]) -> None:
        def picky(query: Tensor, key: Tensor, value: Tensor, attn_bias: Any = None, scale: float = 1.0) -> Tensor:
            if type(attn_bias).__name__ == "BlockDiagonalGappyKeysMask":
                raise RuntimeError("no such kernel\nmore")
            out = told(query, key, value, attn_bias, scale)
            return out if attn_bias is None else out * 1.1

        kernel(picky)
        assert form_problem("overlapping", False, CPU, torch.float32, 16) == "a trial fails (no such kernel)"
        for gradient in (False, True):
            problem = form_problem("gathered", gradient, CPU, torch.float32, 16)
            assert problem == "a trial gives other numbers than torch's attention"
        assert choose_form(ranges(PLANS["causal"]), False, CPU, torch.float32, 16) == "each"

    def test_a_wrong_gradient_is_found(self, kernel: Callable[..., None]) -> None:
        kernel(lambda query, key, value, **settings: told(query, key, 2 * value - value.detach(), **settings))
        assert form_problem("gathered", False, CPU, torch.float32, 16) == ""
        assert "other numbers" in form_problem("gathered", True, CPU, torch.float32, 16)

    def test_plans_go_there_by_the_backend(self, kernel: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        kernel(lambda *tensors, **settings: calls.append(1) or told(*tensors, **settings))
        monkeypatch.setattr(attention, "choose_backend", lambda device, requested: ("xformers", "asked for"))
        tensors = inputs(PLANS["causal"])
        form_problem("gathered", True, CPU, torch.float32, 16)
        calls.clear()
        got = with_gradients(attend(*tensors, PLANS["causal"], 0.7), tensors)
        assert len(calls) == 1
        monkeypatch.undo()
        for one, other in zip(got, with_gradients(attend(*tensors, PLANS["causal"], 0.7), tensors), strict=True):
            assert_close(one, other)


class TestOperators:
    """What xformers says that it would run, asked of the installed release, as if there were an H100."""

    @pytest.fixture(autouse=True)
    def _h100(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if torch.version.cuda is None:
            pytest.skip("this torch is built without CUDA")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))

    @pytest.mark.parametrize("form", ["overlapping", "gathered", "each"])
    def test_bf16_runs_flash_attention(self, form: Form) -> None:
        found = operators(form, False, GPU, torch.bfloat16, 64)
        assert (found.problem, found.backward) == ("", "")
        assert found.forward.startswith(("fa2F", "fa3F"))

    @pytest.mark.parametrize("form", ["gathered", "each"])
    def test_with_a_backward_pass(self, form: Form) -> None:
        found = operators(form, True, GPU, torch.bfloat16, 64)
        assert found.problem == ""
        assert found.backward.startswith(("fa2B", "fa3B"))
        exact = operators(form, True, GPU, torch.float32, 64)
        assert (exact.problem, exact.forward[:8], exact.backward[:8]) == ("", "cutlassF", "cutlassB")
        assert any("fa2F" in reason and "dtype" in reason for reason in exact.skipped)

    def test_overlapping_ranges_have_no_backward_pass_and_no_float32(self) -> None:
        assert "attn_bias type" in operators("overlapping", True, GPU, torch.bfloat16, 64).problem
        assert "attn_bias type" in operators("overlapping", False, GPU, torch.float32, 64).problem

    def test_types_and_widths_that_no_kernel_takes(self) -> None:
        assert operators("each", False, GPU, torch.float64, 64).problem == "xformers computes nothing in float64"
        assert "% 8 != 0" in operators("each", False, GPU, torch.bfloat16, 12).problem

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("form", ["overlapping", "gathered", "each"])
    def test_xformers_takes_the_calls(self, form: Form, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
        """Through all of its checks down to the kernel, with tensors that have shapes alone."""
        masks = load_xformers().attn_bias
        monkeypatch.setattr(masks, "_to_device_tensor", lambda rows, **kind: torch.tensor(rows, **kind))
        make_bias.cache_clear()
        of = PLANS["causal"]
        with FakeTensorMode():
            joint = torch.empty(3, SCHEDULE.total, 3 * 2 * 16, device="cuda", dtype=dtype)
            tensors = [part.unflatten(-1, (2, 16)) for part in joint.chunk(3, -1)]
            monkeypatch.setattr(xformers_attention, "_varlen_operator", xformers_attention._varlen)
            if form == "overlapping" and dtype == torch.float32:
                with pytest.raises(NotImplementedError, match="No operator found"):
                    attend_in_form(form, *tensors, ranges(of), 0.7, False)
            else:
                out = attend_in_form(form, *tensors, ranges(of), 0.7, False)
                assert (out.shape, out.device.type, out.dtype) == ((3, SCHEDULE.total, 2, 16), "cuda", dtype)
            if form != "overlapping":
                trained = [part.detach().requires_grad_() for part in tensors]
                assert attend_in_form(form, *trained, ranges(of), 0.7, True).requires_grad
        make_bias.cache_clear()

    def test_another_release_that_cannot_be_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(load_xformers().dispatch, "_dispatch_fw")
        assert "cannot be asked" in operators("each", False, GPU, torch.bfloat16, 64).problem


class TestCompiled:
    """A pass without gradients under torch.compile."""

    def test_is_one_graph(self, kernel: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
        kernel(told)
        monkeypatch.setattr(attention, "choose_backend", lambda device, requested: ("xformers", "asked for"))
        torch._dynamo.reset()
        compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
        for batch, name in ((1, "causal"), (2, "causal"), (3, "scattered")):
            tensors = [part.detach() for part in inputs(PLANS[name], batch)]
            with torch.no_grad():
                assert_close(compiled(*tensors, PLANS[name], 0.7), attend(*tensors, PLANS[name], 0.7))

    def test_the_operator_says_what_it_gives(self, kernel: Callable[..., None]) -> None:
        kernel(told)
        tensors = [part.detach() for part in inputs(PLANS["causal"])]
        arguments = (*tensors, [1, 2, 6, 16], [0, 0, 0, 0], [1, 3, 9, 25], 0.7)
        torch.library.opcheck(xformers_attention._varlen_operator, arguments)


def test_loading_is_silent_and_the_compiler_stays_out() -> None:
    code = """if True:
        import sys
        from cyclevar.core.attention import kernels as attention, xformers as xformers_attention
        assert "torch._dynamo" not in sys.modules
        xformers_attention.load_xformers()
        print(xformers_attention.missing_kernels())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout == "\n" or f"torch {torch.__version__} is here" in done.stdout
