"""Linear layers that call oneDNN by name, with weights laid out for it once: in float32, and in int8."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["none", "gelu"]
"""What follows a linear layer; ``gelu`` is the approximation by tanh."""


def can_pack(device: torch.device) -> bool:
    """Whether `PackedLinear` works here: on an x86 processor, with a torch that has oneDNN."""
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.cpu._is_avx2_supported()


def has_vnni() -> bool:
    """Whether this processor sums products of 8-bit numbers in 32 bits."""
    return torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()


class PackedLinear(nn.Module):
    """A linear layer in float32 whose weights lie in blocks as oneDNN multiplies them, with its activation fused.

    MKL, which `torch.nn.Linear` calls, packs them anew in every call, and does it for a few rows at the cost of many.
    """

    def __init__(self, linear: nn.Linear, activation: Activation = "none") -> None:
        super().__init__()
        self.activation = activation
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], "tanh")
        return out


class Int8Linear(nn.Module):
    """A linear layer in int8: weights scaled row by row, inputs as a whole when they are seen; float32 comes out."""

    def __init__(self, linear: nn.Linear, activation: Activation = "none") -> None:
        super().__init__()
        self.activation = activation
        weight = linear.weight.detach().float()
        self.weight_scales = weight.abs().amax(1).clamp_min(1e-8) / 127
        whole = (weight / self.weight_scales[:, None]).round().to(torch.int8)
        self.weight: Tensor = torch.ops.onednn.qlinear_prepack(whole, None)
        self.zeros = torch.zeros(len(whole), dtype=torch.int32)
        self.bias = None if linear.bias is None else linear.bias.float()

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        low, high = (float(one) for one in x.aminmax())
        scale = max(high, 0.0, -low, high - low, 1e-8) / 255
        zero = round(max(-low, 0.0) / scale) if math.isfinite(scale) else 0
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            torch.add(x.new_tensor(zero + 0.5), x, alpha=1 / scale).to(torch.uint8),  # which cuts the fraction off
            scale,
            zero,
            self.weight,
            self.weight_scales,
            self.zeros,
            self.bias,
            1.0,
            0,
            torch.float32,
            self.activation,
            [],
            "tanh",
        )
        return out


class Int8LinearOf7Bits(nn.Module):
    """The same without the VNNI instructions: the sums of two products must fit 16 bits, so inputs use 7 bits."""

    def __init__(self, linear: nn.Linear, activation: Activation = "none") -> None:
        super().__init__()
        self.activation = activation
        scales = linear.weight.abs().amax(1).clamp_min(1e-8).double() / 127
        with warnings.catch_warnings():  # torch announces a successor that has no per-row scales yet
            warnings.simplefilter("ignore")
            weight = torch.quantize_per_channel(
                linear.weight.float(), scales, torch.zeros(len(scales), dtype=torch.int64), 0, torch.qint8
            )
            bias = None if linear.bias is None else linear.bias.float()
            self.packed = torch.ops.quantized.linear_prepack(weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.quantized.linear_dynamic(x.float(), self.packed, True)
        return out if self.activation == "none" else F.gelu(out, approximate="tanh")
