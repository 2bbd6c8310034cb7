"""Attention of a plan by xformers (CUDA): one kernel call instead of one a scale.

Three forms compute the same (`choose_form` says which one when):

- ``overlapping``: one variable-length call whose scales read overlapping ranges of the same keys. Forward only, half
  precision, and every scale sees one range.
- ``gathered``: one variable-length call on the ranges copied one behind the other (2.5 times the keys for VAR's ten
  scales). Any ranges, forward and backward.
- ``each``: one call a scale.

The kernels in xformers' wheel work with one release of torch alone. With any other, xformers still calls torch's own
(flash and memory-efficient attention), which is what `load_xformers` sees to.
"""

from __future__ import annotations

import itertools
import logging
import operator
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from cyclevar.core.attention.plan import AttentionPlan, Span

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Form = Literal["overlapping", "gathered", "each"]
Ranges = tuple["tuple[Span, tuple[Span, ...]]", ...]
"""The query rows of every scale, and the key ranges that they see."""


Function = TypeVar("Function", bound=Callable[..., Any])


def constant_when_compiled(function: Function) -> Function:
    """Mark a function that `torch.compile` is to call once, and not to look into.

    ``torch.compiler.assume_constant_result`` does the same, but costs every command a second: it imports the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@dataclass(frozen=True)
class Operators:
    """What xformers would run: its names of the operators, ``backward`` only where a gradient is wanted.

    ``skipped``: the operators that it prefers, each with what keeps it from them. ``problem``: why it would run none.
    """

    forward: str = ""
    backward: str = ""
    skipped: tuple[str, ...] = ()
    problem: str = ""


def attend_planned(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scale: float) -> Tensor | None:
    """What `attention.attend` does, for a plan that masks no tokens; None if xformers has no operator for the tensors.

    A pass without gradients is one operator to `torch.compile`, and waits for nothing: what a kernel is told of the
    ranges lies on the GPU since the first call.
    """
    ranges = tuple((_span(block.queries), tuple(map(_span, block.keys))) for block in plan.blocks)
    gradient = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    form = choose_form(ranges, gradient, query.device, query.dtype, query.shape[-1])
    return None if form is None else attend_in_form(form, query, key, value, ranges, scale, gradient)


@constant_when_compiled
def choose_form(ranges: Ranges, gradient: bool, device: torch.device, dtype: torch.dtype, head_dim: int) -> Form | None:
    """How to compute a plan; None where xformers can do it in no form.

    A single scale is one call anyhow. Several are one ``overlapping`` call if no gradient is wanted and each sees one
    range, else one ``gathered`` call: it copies keys and values, but launches one kernel for ten. A form is used after
    a small trial of it agreed with torch's attention.
    """
    forms: list[Form] = ["each"]
    if len(ranges) > 1:
        one_range = all(len(keys) == 1 for _, keys in ranges)
        forms = ["overlapping", "gathered", "each"] if one_range and not gradient else ["gathered", "each"]
    return next((form for form in forms if not form_problem(form, gradient, device, dtype, head_dim)), None)


def attend_in_form(
    form: Form, query: Tensor, key: Tensor, value: Tensor, ranges: Ranges, scale: float, gradient: bool
) -> Tensor:
    """Attention ``[B,l,H,D]`` in the given form, whichever `choose_form` would take."""
    kernel = _varlen if gradient else _varlen_operator
    key, value = key.to(query.dtype), value.to(query.dtype)
    queries = [high - low for (low, high), _ in ranges]
    lengths = [sum(high - low for low, high in keys) for _, keys in ranges]
    if form == "each":
        parts = [
            kernel(query[:, slice(*rows)], gather(key, keys), gather(value, keys), [], [], [], scale)
            for rows, keys in ranges
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    starts = [keys[0][0] for _, keys in ranges] if form == "overlapping" else []
    if form == "gathered":
        every = [span for _, keys in ranges for span in keys]
        key, value = gather(key, every), gather(value, every)
    if torch.compiler.is_compiling():
        batch, keys = map(operator.index, key.shape[:2])
        _prepare(tuple(queries), tuple(starts), tuple(lengths), batch, keys, query.device)
    return kernel(query, key, value, queries, starts, lengths, scale)


def _span(span: Span) -> Span:
    """The same in plain numbers, where `torch.compile` would rather keep symbols."""
    low, high = map(operator.index, span)
    return low, high


def gather(tensor: Tensor, spans: Sequence[Span]) -> Tensor:
    """The rows ``[B,rows,H,D]`` of the spans, one behind the other; a view where there is one span."""
    parts = [tensor[:, low:high] for low, high in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Sequence[int],
    starts: Sequence[int],
    lengths: Sequence[int],
    scale: float,
) -> Tensor:
    """One call of xformers' kernel.

    The ``queries[i]`` next rows of every picture see ``lengths[i]`` keys, from ``starts[i]`` on or, without starts, the
    next ones. No ``queries``: all rows see all keys.
    """
    bias = None
    batch, rows = query.shape[:2]
    if queries:
        bias = make_bias(tuple(queries), tuple(starts), tuple(lengths), batch, key.shape[1], query.device)
        query, key, value = (part.flatten(0, 1)[None] for part in (query, key, value))
    out: Tensor = load_xformers().memory_efficient_attention(query, key, value, attn_bias=bias, scale=scale)
    return out.reshape(batch, rows, *out.shape[2:]).contiguous()


# torch.compile cannot look into xformers; to it, this is one operator, without a gradient.
_varlen_operator = torch.library.custom_op("cyclevar::xformers_attention", _varlen, mutates_args=())


@_varlen_operator.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Sequence[int],
    starts: Sequence[int],
    lengths: Sequence[int],
    scale: float,
) -> Tensor:
    return query.new_empty(*query.shape[:-1], value.shape[-1])


@cache
def make_bias(
    queries: tuple[int, ...],
    starts: tuple[int, ...],
    lengths: tuple[int, ...],
    batch: int,
    keys: int,
    device: torch.device,
) -> Any:
    """What xformers is told of the ranges (arguments as in `_varlen`), for ``batch`` pictures of ``keys`` keys each.

    Kept for good: a captured CUDA graph may read it.
    """
    masks = load_xformers().attn_bias
    if not starts:
        return masks.BlockDiagonalMask.from_seqlens(list(queries) * batch, list(lengths) * batch, device=device)
    begins = [picture * keys + start for picture in range(batch) for start in starts]
    return masks.BlockDiagonalGappyKeysMask.from_seqlens(
        list(queries) * batch, [*begins, batch * keys], list(lengths) * batch, device=device
    )


@constant_when_compiled
def _prepare(*description: Any) -> bool:
    """Make the bias while a pass is compiled, so that its memory is not that of a CUDA graph."""
    make_bias(*description)
    return True


@cache
def form_problem(form: Form, gradient: bool, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why a form cannot be used; empty if xformers has operators for it and a small trial agrees with torch's."""
    problem = operators(form, gradient, device, dtype, head_dim).problem
    if problem:
        return problem
    ranges: Ranges = (((0, 1), ((0, 2),)), ((1, 4), ((0, 5),)))
    with torch.inference_mode(False), torch.set_grad_enabled(gradient), torch.autocast(device.type, enabled=False):
        wave = torch.arange(3 * 2 * 5 * 2 * head_dim, device=device).sin().to(dtype)
        query, key, value = (part.requires_grad_(gradient) for part in wave.view(3, 2, 5, 2, head_dim).unbind())
        query = query[:, :4]
        want = torch.cat([_torch_attention(query[:, slice(*q)], key[:, :k], value[:, :k]) for q, [(_, k)] in ranges], 1)
        try:
            got = attend_in_form(form, query, key, value, ranges, head_dim**-0.5, gradient)
            pairs = [(got, want)]
            if gradient:
                one, other = (torch.autograd.grad(out.square().sum(), [query, key, value]) for out in (got, want))
                pairs += zip(one, other, strict=True)
        except (RuntimeError, ValueError) as error:
            return f"a trial fails ({first_line(error)})"
        tolerance = 1e-3 if dtype == torch.float32 else 5e-2
        if not all(torch.allclose(x.float(), y.float(), atol=tolerance, rtol=tolerance) for x, y in pairs):
            return "a trial gives other numbers than torch's attention"
    return ""


def _torch_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


@cache
def operators(form: Form, gradient: bool, device: torch.device, dtype: torch.dtype, head_dim: int) -> Operators:
    """Which operators xformers would choose for tensors of that kind. Computes nothing."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    if dtype not in DTYPES:
        return Operators(problem=f"xformers computes nothing in {str(dtype).removeprefix('torch.')}")
    keys = 7 if form == "gathered" else 5
    starts = (0, 0) if form == "overlapping" else ()
    try:
        fmha = load_xformers()
        dispatch = fmha.dispatch
        bias = None if form == "each" else make_bias((1, 3), starts, (2, 5), 1, keys, torch.device("cpu"))
        with FakeTensorMode():
            query, key = (torch.empty(1, rows, 2, head_dim, dtype=dtype, device=device) for rows in (4, keys))
        inputs = fmha.Inputs(query=query, key=key, value=key, attn_bias=bias, scale=0.5)
        candidates = list(dispatch._dispatch_fw_priority_list(inputs, gradient))
        forward, backward, skipped = dispatch._dispatch_fw(inputs, gradient), None, _skipped(candidates, inputs)
        if gradient:
            candidates = [fmha.flash3.BwOp, fmha.flash.BwOp, fmha.cutlass.BwOp]
            backward = dispatch._dispatch_bw(inputs, None if form == "each" else forward.VARLEN_LSE_PACKED)
            skipped += _skipped(candidates, inputs)
        return Operators(forward.NAME, backward.NAME if backward else "", skipped)
    except NotImplementedError:
        return Operators(problem=f"xformers has no operator for it ({'; '.join(_skipped(candidates, inputs))})")
    except AttributeError as error:  # these parts of xformers are not public
        return Operators(problem=f"this release of xformers cannot be asked ({error})")


def _skipped(candidates: Iterable[Any], inputs: Any) -> tuple[str, ...]:
    """Those of xformers' operators before the first that can take the inputs, each with what keeps it from them."""
    reasons = ((one.NAME, one.not_supported_reasons(inputs)) for one in candidates)
    refusing = itertools.takewhile(lambda named: named[1], reasons)
    return tuple(f"{name}: {' '.join(found[-1].partition(' - ')[0].split())}" for name, found in refusing)


@cache
def load_xformers() -> Any:
    """``xformers.ops.fmha``; what its import says of kernels that it cannot load is not shown to the user.

    Raises ImportError or OSError where it cannot be imported.
    """
    logger = logging.getLogger("xformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from xformers.ops import fmha
    finally:
        logger.setLevel(level)
    if torch.version.cuda and missing_kernels():
        # It then takes itself for a build without CUDA and refuses all of its operators, those of torch too.
        fmha.common._built_with_cuda = True
    return fmha


def missing_kernels() -> str:
    """Why xformers runs without its own kernels; empty if it has them."""
    from xformers import _cpp_lib

    error = _cpp_lib._cpp_library_load_exception
    if error is None:
        return ""
    built = getattr(error, "build_info", None)
    wanted = f"torch {built.torch_version}" if built else "another torch"
    return f"xformers' own kernels are built for {wanted} and torch {torch.__version__} is here, so it calls torch's"


def first_line(error: Exception) -> str:
    """What an error says first."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
