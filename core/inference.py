"""A model rearranged for inference: the same pictures to rounding, sooner.

Exact: the upsampling convolutions of the decoder run at the small size (`PhaseUpsample`), convolutions hold their
weights channels last, biases and scales of the attention are folded (`FoldedAttention`), and what the backbone makes of
a condition is kept between calls. Approximate, on request: linear layers in int8 (`Int8Linear`), or all of it in bf16.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclevar.core.autoencoder import Upsample
from cyclevar.core.blocks import AdaLNBlock, SelfAttention
from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces import Condition
from cyclevar.core.model import Model

Kind = TypeVar("Kind", bound=nn.Module)


class InferenceModel(Model):
    """What `for_inference` gives: translates and generates, but can neither be trained nor saved."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.family, model.config, model.tokenizer, model.backbone, model.schedule)
        self._prepared: dict[tuple[int | str, ...], Condition] = {}

    def condition(self, targets: Sequence[int | str]) -> Condition:
        """As `Model.condition`, computed once for the same targets."""
        wanted = tuple(targets)
        if wanted not in self._prepared:
            self._prepared[wanted] = self.backbone.prepared(super().condition(targets))
        return self._prepared[wanted]

    def save(self, path: str | Path, *, half: bool = False, extra: Mapping[str, Any] | None = None) -> None:
        """Raises `ConfigError`: what is here has another shape than what a file holds."""
        raise ConfigError("a model for inference cannot be saved", expected="the model that it was made of")


@torch.no_grad()
def for_inference(model: Model, *, int8: bool = False, dtype: torch.dtype = torch.float32) -> InferenceModel:
    """The model for inference alone. ``model`` stays as it is; weights that need no change are shared with it.

    ``int8`` computes the linear layers of the blocks in 8 bits (CPU only). With ``dtype`` bfloat16 the weights are of
    that type, and calls belong under autocast to it. Raises `ConfigError` for int8 on a GPU.
    """
    if int8 and model.device.type != "cpu":
        raise ConfigError("int8 linear layers run on a CPU only", hint="leave int8 out, or use --device cpu")
    kept = () if dtype != torch.float32 else (*model.parameters(), *model.buffers())
    changed: Model = copy.deepcopy(model, {id(tensor): tensor for tensor in kept})
    changed.to(dtype).eval()
    _replace(changed.tokenizer, Upsample, PhaseUpsample)
    _replace(changed.backbone, SelfAttention, FoldedAttention)
    for module in changed.tokenizer.modules():
        if isinstance(module, nn.Conv2d):
            module.weight = nn.Parameter(module.weight.contiguous(memory_format=torch.channels_last))
    if int8:
        for block in changed.backbone.modules():
            if isinstance(block, AdaLNBlock):
                for part in (block.attention, block.feed_forward):
                    _replace(part, nn.Linear, Int8Linear)
    return InferenceModel(changed)


def compile_parts(model: Model) -> Model:
    """Let `torch.compile` compile encoder, backbone and decoder on their first call, on a GPU into CUDA graphs."""
    # Its answers never change in a process, so that tracing through the cache in core/attention.py loses nothing.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    mode = "reduce-overhead" if model.device.type == "cuda" else None
    tokenizer = model.tokenizer
    for name in ("encode", "decode"):
        setattr(tokenizer, name, torch.compile(getattr(tokenizer, name), mode=mode))
    model.backbone.compile(mode=mode)
    return model


class PhaseUpsample(nn.Module):
    """`Upsample` without the doubled input: each of the four pixels of a cell is a 2x2 convolution of the small map.

    After nearest-neighbour doubling the three taps of a row fall on two input cells, so two can be added before: 2.25
    times fewer multiplications, the same sums.
    """

    def __init__(self, upsample: Upsample) -> None:
        super().__init__()
        self.bias = upsample.conv.bias
        phases = [columns for rows in _pairs(upsample.conv.weight, 2) for columns in _pairs(rows, 3)]
        self.weights = nn.ParameterList(
            nn.Parameter(phase.contiguous(memory_format=torch.channels_last)) for phase in phases
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        padded = F.pad(x, (1, 1, 1, 1))
        out = torch.empty(
            (batch, len(self.weights[0]), 2 * height, 2 * width),
            dtype=torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype,
            device=x.device,
            memory_format=torch.channels_last,
        )
        for phase, weight in enumerate(self.weights):
            row, column = divmod(phase, 2)
            part = padded[:, :, row : row + height + 1, column : column + width + 1]
            out[:, :, row::2, column::2] = F.conv2d(part, weight, self.bias)
        return out


def _pairs(taps: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Three taps along an axis as two, for the first and for the second pixel of a cell."""
    first, second, third = taps.split(1, dim=axis)
    return torch.cat([first, second + third], axis), torch.cat([first + second, third], axis)


class FoldedAttention(SelfAttention):
    """`SelfAttention` whose biases are one bias of the joint projection, and whose scale is a constant."""

    head_scales: Tensor

    def __init__(self, attention: SelfAttention) -> None:
        nn.Module.__init__(self)
        self.heads, self.qk_norm, self.scale, self.out = (
            attention.heads,
            attention.qk_norm,
            attention.scale,
            attention.out,
        )
        bias = torch.cat([attention.query_bias, torch.zeros_like(attention.query_bias), attention.value_bias])
        rows, width = attention.qkv.weight.shape
        self.qkv = nn.Linear(width, rows, device="meta")
        self.qkv.weight, self.qkv.bias = attention.qkv.weight, nn.Parameter(bias)
        if self.qk_norm:
            self.register_buffer("head_scales", attention.head_scale())

    def project(self, x: Tensor) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = self.qkv(x).chunk(3, dim=-1)
        return parts

    def head_scale(self) -> Tensor:
        return self.head_scales


class Int8Linear(nn.Module):
    """A linear layer in int8: weights scaled row by row, inputs as a whole when they are seen; float32 comes out.

    Inputs use 7 bits, since without the VNNI instructions the sums of products would overflow 16 bits.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scales = linear.weight.abs().amax(1).clamp_min(1e-8).double() / 127
        with warnings.catch_warnings():  # torch announces a successor that has no per-row scales yet
            warnings.simplefilter("ignore")
            weight = torch.quantize_per_channel(
                linear.weight.float(), scales, torch.zeros(len(scales), dtype=torch.int64), 0, torch.qint8
            )
            self.packed = torch.ops.quantized.linear_prepack(weight, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.quantized.linear_dynamic(x.float(), self.packed, True)
        return out


def _replace(module: nn.Module, kind: type[Kind], make: Callable[[Kind], nn.Module]) -> None:
    """Put ``make(part)`` in the place of every part of that kind."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is kind:
                setattr(parent, name, make(child))
