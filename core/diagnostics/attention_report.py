"""Which attention kernels run, forward and backward, and why: said without running a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from cyclevar.core.attention.kernels import choose_backend
from cyclevar.core.attention.xformers import Ranges, choose_form, missing_kernels, operators


@dataclass(frozen=True)
class AttentionRow:
    """One kind of call. ``direction``: forward or backward; ``operator``: by the name that its library gives it."""

    what: str
    direction: str
    operator: str
    why: str


_ONE: Ranges = (((0, 4), ((0, 4),)),)
_ALL: Ranges = (((0, 1), ((0, 1),)), ((1, 5), ((0, 5),)))


def attention_report(
    device: torch.device, dtype: torch.dtype, head_dim: int, requested: str = "auto"
) -> tuple[AttentionRow, ...]:
    """What attends on ``device`` to tensors of ``dtype`` with ``head_dim`` channels a head, call by call.

    On a GPU, each form of the xformers calls is tried once on a few numbers, as a model does on its first pass. Raises
    as `choose_backend` for a ``requested`` backend that cannot be had.
    """
    backend, reason = choose_backend(device, requested)
    rows: list[AttentionRow] = []
    for what, ranges, gradient in (
        ("inference", _ALL, False),
        ("training", _ALL, True),
        ("serial step", _ONE, False),
    ):
        form = choose_form(ranges, gradient, device, dtype, head_dim) if backend == "xformers" else None
        if form is None:
            why = f"no form of xformers takes {_short(dtype)}, {head_dim} wide" if backend == "xformers" else reason
            rows += _torch_rows(what, gradient, device, dtype, head_dim, why, masked=backend == "dense")
            continue
        found = operators(form, gradient, device, dtype, head_dim)
        why = "; ".join([f"xformers, {_FORMS[form]}", *found.skipped, *filter(None, [missing_kernels()])])
        rows.append(AttentionRow(what, "forward", found.forward, why))
        if gradient:
            rows.append(AttentionRow(what, "backward", found.backward, why))
    padded = "its keys have a mask, since texts differ in length"
    return (*rows, *_torch_rows("text (Infinity)", True, device, dtype, head_dim, padded, masked=True))


_FORMS = {
    "overlapping": "one call on overlapping ranges of keys",
    "gathered": "one call on copied ranges of keys",
    "each": "one call a scale",
}


def _torch_rows(
    what: str, gradient: bool, device: torch.device, dtype: torch.dtype, head_dim: int, why: str, *, masked: bool
) -> list[AttentionRow]:
    """Rows of a call of torch's scaled-dot-product attention."""
    operator = f"sdpa, {torch_kernel(device, dtype, head_dim, gradient, masked)}"
    return [AttentionRow(what, way, operator, why) for way in (("forward", "backward") if gradient else ("forward",))]


def torch_kernel(device: torch.device, dtype: torch.dtype, head_dim: int, gradient: bool, masked: bool) -> str:
    """The kernel that scaled-dot-product attention would choose: flash, efficient, cudnn or math."""
    with torch.inference_mode(False), torch.set_grad_enabled(gradient):
        query: Tensor = torch.zeros(1, 2, 8, head_dim, dtype=dtype, device=device, requires_grad=gradient)
        mask = torch.ones(8, 8, dtype=torch.bool, device=device) if masked else None
        chosen = SDPBackend(torch._fused_sdp_choice(query, query, query, attn_mask=mask))
    return chosen.name.removesuffix("_ATTENTION").lower()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
