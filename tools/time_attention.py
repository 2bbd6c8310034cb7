"""Times every way to compute the attention of one pass over all scales, and names the fastest.

    python tools/time_attention.py [--device D] [--dtype T] [--batch N] [--heads N] [--head-dim N] [--schedule S]

Without options: a layer of VAR-d16 at 256 pixels. Prints milliseconds of the forward pass, of the same captured in a
CUDA graph (without the time that launching takes), and of forward and backward pass; the largest difference from the
masked call in float32, of the output and of the gradients; and whether the way that cyclevar takes is the fastest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from cyclevar.core.attention.kernels import attend, choose_backend
from cyclevar.core.attention.plan import AttentionPlan, Visibility, plan_attention
from cyclevar.core.attention.xformers import Form, Ranges, attend_in_form, choose_form, form_problem
from cyclevar.core.runtime.device import choose_device
from cyclevar.core.schedule import ScaleSchedule

FORMS: tuple[Form, ...] = ("overlapping", "gathered", "each")
COLUMNS = ("way", "forward", "captured", "forward and backward", "difference", "of gradients")

Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def ranges(plan: AttentionPlan) -> Ranges:
    """The plan as the forms take it."""
    return tuple((block.queries, block.keys) for block in plan.blocks)


def in_form(form: Form, plan: AttentionPlan, scale: float, gradient: bool) -> Way:
    """One of the forms of xformers."""
    return lambda query, key, value: attend_in_form(form, query, key, value, ranges(plan), scale, gradient)


def by_torch(backend: str, plan: AttentionPlan, scale: float) -> Way:
    """Torch's kernel, scale by scale or with a mask."""
    return lambda query, key, value: attend(query, key, value, replace(plan, backend=backend), scale)


def ways(plan: AttentionPlan, scale: float, gradient: bool, like: Tensor) -> dict[str, Way | str]:
    """Name -> what computes the plan, or why it cannot."""
    found: dict[str, Way | str] = {}
    if choose_backend(like.device)[0] == "xformers":
        for form in FORMS:
            problem = form_problem(form, gradient, like.device, like.dtype, like.shape[-1])
            found[f"xformers, {form}"] = problem or in_form(form, plan, scale, gradient)
    return found | {backend: by_torch(backend, plan, scale) for backend in ("sdpa", "dense")}


def milliseconds(call: Callable[[], object], seconds: float) -> float:
    """The median over what fits into the given time."""
    return 1e3 * Timer("call()", globals={"call": call}).blocked_autorange(min_run_time=seconds).median


def captured(way: Way, tensors: Sequence[Tensor], seconds: float) -> float:
    """Milliseconds of a replay of the way in a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        way(*tensors)
    return milliseconds(graph.replay, seconds)


def with_gradients(way: Way, tensors: Sequence[Tensor], probe: Tensor) -> list[Tensor]:
    """The output, and the gradients to query, key and value."""
    out = way(*tensors)
    return [out, *torch.autograd.grad(out, list(tensors), probe)]


def largest(ours: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference."""
    return max(float((one.float() - other).abs().max()) for one, other in zip(ours, wanted, strict=True))


def report(plan: AttentionPlan, tensors: Sequence[Tensor], scale: float, seconds: float) -> list[str]:
    """A table in Markdown, what cannot be computed and why, and which way is taken and which is the fastest."""
    probe = torch.randn_like(tensors[0])
    exact = [tensor.detach().float().requires_grad_() for tensor in tensors]
    wanted = with_gradients(by_torch("dense", plan, scale), exact, probe.float())
    forward, backward = (ways(plan, scale, gradient, tensors[0]) for gradient in (False, True))
    one_way: dict[str, float] = {}
    both_ways: dict[str, float] = {}
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    refused = []
    for name, way in forward.items():
        cells = dict.fromkeys(COLUMNS, "-") | {"way": name}
        if isinstance(way, str):
            refused.append(f"{name}: forward: {way}")
        else:
            with torch.no_grad():
                cells["difference"] = f"{largest([way(*tensors)], wanted[:1]):.1e}"
                one_way[name] = milliseconds(partial(way, *tensors), seconds)
            cells["forward"] = f"{one_way[name]:.3f}"
            if tensors[0].device.type == "cuda":
                cells["captured"] = f"{captured(way, tensors, seconds):.3f}"
        other = backward[name]
        if isinstance(other, str):
            refused.append(f"{name}: backward: {other}")
        else:
            cells["of gradients"] = f"{largest(with_gradients(other, tensors, probe)[1:], wanted[1:]):.1e}"
            both_ways[name] = milliseconds(partial(with_gradients, other, tensors, probe), seconds)
            cells["forward and backward"] = f"{both_ways[name]:.3f}"
        lines.append(f"| {' | '.join(cells.values())} |")
    return [*lines, "", *refused, _taken(plan, one_way, False, tensors[0]), _taken(plan, both_ways, True, tensors[0])]


def _taken(plan: AttentionPlan, found: dict[str, float], gradient: bool, like: Tensor) -> str:
    """The way that `attend` takes beside the fastest."""
    form = None
    if choose_backend(like.device)[0] == "xformers":
        form = choose_form(ranges(plan), gradient, like.device, like.dtype, like.shape[-1])
    taken = f"xformers, {form}" if form else "sdpa"
    best = min(found, key=lambda name: found[name])
    kind = "forward and backward" if gradient else "forward"
    return f"{kind}: taken is {taken}; fastest is {best}, in {found[best] / found[taken]:.2f} of its time"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16; auto: bfloat16 on a GPU")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--schedule", default="1-2-3-4-5-6-8-10-13-16")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each figure")
    given = parser.parse_args(arguments)
    device = choose_device(given.device)
    name = given.dtype if given.dtype != "auto" else "bfloat16" if device.type == "cuda" else "float32"
    schedule = ScaleSchedule.parse(given.schedule)
    plan = plan_attention(schedule, Visibility.causal(len(schedule)), range(len(schedule)))
    torch.manual_seed(0)
    shape = (given.batch, schedule.total, given.heads, given.head_dim)
    tensors = [torch.randn(shape, device=device, dtype=getattr(torch, name), requires_grad=True) for _ in range(3)]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{where}, {name}, batch {given.batch}, {given.heads} heads of {given.head_dim}, scales {schedule}, ms\n")
    print("\n".join(report(plan, tensors, given.head_dim**-0.5, given.seconds)))


if __name__ == "__main__":
    main()
