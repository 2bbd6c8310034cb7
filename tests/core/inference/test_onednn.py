"""Linear layers that call oneDNN by name, against the plain layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cyclevar.core.inference import onednn
from cyclevar.core.inference.onednn import Activation, Int8Linear, Int8LinearOf7Bits, PackedLinear, can_pack, has_vnni

CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(not can_pack(CPU), reason="needs oneDNN and AVX2")
needs_vnni = pytest.mark.skipif(not has_vnni(), reason="needs a processor with VNNI")
INT8 = [pytest.param(Int8Linear, marks=needs_vnni), Int8LinearOf7Bits]


def plain(linear: torch.nn.Linear, x: torch.Tensor, activation: Activation) -> torch.Tensor:
    out: torch.Tensor = linear(x)
    return F.gelu(out, approximate="tanh") if activation == "gelu" else out


@needs_packing
@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("tokens", [1, 7, 300])
def test_packed(activation: Activation, tokens: int) -> None:
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(64, 96), torch.randn(2, tokens, 64)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear, activation)(x), plain(linear, x, activation))


@needs_packing
def test_packed_without_bias() -> None:
    linear, x = torch.nn.Linear(64, 96, bias=False), torch.randn(2, 5, 64)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x))


@pytest.mark.parametrize("kind", INT8)
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_int8_comes_close(kind: type[Int8Linear], activation: Activation) -> None:
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(256, 128), torch.randn(2, 50, 256)
    with torch.inference_mode():
        expected, made = plain(linear, x, activation), kind(linear, activation)(x)
    share = (made - expected).abs().mean() / expected.abs().mean()
    assert 0 < share < (0.012 if kind is Int8Linear else 0.025)


@pytest.mark.parametrize("kind", INT8)
def test_int8_of_half_precision(kind: type[Int8Linear]) -> None:
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(64, 32).bfloat16(), torch.randn(2, 5, 64).bfloat16()
    with torch.inference_mode():
        made, expected = kind(linear)(x), linear.float()(x.float())
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("kind", INT8)
@pytest.mark.parametrize("values", [0.0, 2.0, -2.0])
def test_int8_of_equal_inputs(kind: type[Int8Linear], values: float) -> None:
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(64, 16), torch.full((1, 3, 64), values)
    with torch.inference_mode():
        torch.testing.assert_close(kind(linear)(x), linear(x), atol=0.02, rtol=0)


@needs_vnni
def test_int8_uses_all_of_8_bits() -> None:
    """Inputs of one sign have 256 steps, from 0 to the largest."""
    linear = torch.nn.Linear(1, 1, bias=False)
    linear.weight.data.fill_(127.0)
    x = torch.arange(256.0).view(1, 256, 1)
    with torch.inference_mode():
        torch.testing.assert_close(Int8Linear(linear)(x), 127 * x)


@needs_vnni
def test_int8_hands_on_what_is_not_a_number() -> None:
    linear, x = torch.nn.Linear(8, 8), torch.full((1, 2, 8), torch.nan)
    with torch.inference_mode():
        assert Int8Linear(linear)(x).isnan().all()


def test_other_devices_do_not_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_pack(torch.device("cuda"))
    monkeypatch.setattr(onednn.torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack(CPU)
    assert not has_vnni()
