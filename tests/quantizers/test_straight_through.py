"""The straight-through estimator."""

from __future__ import annotations

import torch

from cyclevar.quantizers.straight_through import straight_through


def test_value_of_one_gradient_of_the_other() -> None:
    continuous, quantized = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    out = straight_through(continuous, quantized)
    torch.testing.assert_close(out, quantized)
    weight = torch.randn(3, 4)
    (out * weight).sum().backward()
    assert continuous.grad is not None
    assert torch.equal(continuous.grad, weight)
    assert quantized.grad is None
