"""The straight-through estimator."""

from __future__ import annotations

from torch import Tensor


def straight_through(continuous: Tensor, quantized: Tensor) -> Tensor:
    """The value of ``quantized`` with the gradient of ``continuous`` (Bengio et al. 2013, arXiv 1308.3432)."""
    return continuous + (quantized - continuous).detach()
