"""A model rearranged for inference: the same pictures to rounding, sooner.

Exact to rounding: convolutions take fewer multiplications (`WinogradConv`), those behind the decoder's doublings run at
the small size (`PhaseUpsample`), the others hold their weights channels last; linear layers have packed weights
(`PackedLinear`), blocks pass over their tokens fewer times (`FusedBlock`), biases and scales of the attention are
folded (`FoldedAttention`), and what the backbone makes of a condition is kept between calls. Approximate, on request:
linear layers in int8 (`Int8Linear`), or all of it in bf16.
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

from cyclevar.core.errors import ConfigError
from cyclevar.core.inference.onednn import Int8Linear, Int8LinearOf7Bits, PackedLinear, can_pack, has_vnni
from cyclevar.core.inference.winograd import WinogradConv
from cyclevar.core.interfaces.backbone import Condition
from cyclevar.core.models.model import Model
from cyclevar.core.networks.autoencoder import Residual, Upsample
from cyclevar.core.networks.transformer import AdaLNBlock, FeedForward, SelfAttention, TextAttention

Kind = TypeVar("Kind", bound=nn.Module)

WINOGRAD_CHANNELS = 64
"""Below so many, input or output, a convolution is faster as it is."""
WINOGRAD_PRODUCT = 320 * 640
"""Inputs times outputs beyond which it stays as it is too: filters take four times the memory, and gain least there."""


class InferenceModel(Model):
    """What `for_inference` gives: translates and generates without gradients; it can neither be trained nor saved."""

    encode = torch.no_grad()(Model.encode)
    reconstruct = torch.no_grad()(Model.reconstruct)
    translate = torch.no_grad()(Model.translate)

    def __init__(self, model: Model) -> None:
        super().__init__(model.family, model.config, model.tokenizer, model.backbone, model.schedule)
        self._prepared: dict[tuple[int | str, ...], Condition] = {}

    @torch.no_grad()
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
def for_inference(
    model: Model, *, int8: bool = False, dtype: torch.dtype = torch.float32, pack: bool = True
) -> InferenceModel:
    """The model for inference alone. ``model`` stays as it is; weights that need no change are shared with it.

    ``int8`` computes the linear layers of the blocks in 8 bits (CPU only). With ``dtype`` bfloat16 the weights are of
    that type, and calls belong under autocast to it. ``pack=False`` leaves linear layers as `compile_parts` needs them.
    Raises `ConfigError` for int8 on a GPU.
    """
    if int8 and model.device.type != "cpu":
        raise ConfigError("int8 linear layers run on a CPU only", hint="leave int8 out, or use --device cpu")
    kept = () if dtype != torch.float32 else (*model.parameters(), *model.buffers())
    changed: Model = copy.deepcopy(model, {id(tensor): tensor for tensor in kept})
    changed.to(dtype).eval()
    _replace(changed.tokenizer, Upsample, PhaseUpsample)
    _replace(changed.tokenizer, Residual, FastResidual)
    for module in changed.tokenizer.modules():
        if isinstance(module, nn.Conv2d):
            module.weight = nn.Parameter(module.weight.contiguous(memory_format=torch.channels_last))
    _replace(changed.backbone, SelfAttention, FoldedAttention)
    if dtype == torch.float32:
        _replace(changed.backbone, AdaLNBlock, FusedBlock)
    if int8 or (pack and dtype == torch.float32 and can_pack(model.device)):
        make = (Int8Linear if has_vnni() else Int8LinearOf7Bits) if int8 else PackedLinear
        _replace(changed.backbone, FeedForward, lambda part: FusedFeedForward(part, make))
        for part in changed.backbone.modules():
            if isinstance(part, SelfAttention | TextAttention):
                _replace(part, nn.Linear, make)
    return InferenceModel(changed)


def compile_parts(model: Model, *, backend: str = "inductor") -> Model:
    """Let `torch.compile` compile encoder, backbone and decoder on their first call, each as one graph.

    In the serial mode every scale is a graph of its own. What is compiled is kept on disk for the next process
    (``TORCHINDUCTOR_CACHE_DIR``). Raises `ConfigError` for layers that the compiler cannot read.
    """
    import torch._dynamo

    if any(isinstance(part, PackedLinear | Int8Linear | Int8LinearOf7Bits) for part in model.modules()):
        raise ConfigError(
            "a model whose linear layers are packed or in int8 cannot be compiled",
            expected="one that `for_inference` made with pack=False",
            hint="leave int8 out",
        )

    # Its answers never change in a process, so that tracing through the cache in attention/kernels.py loses nothing.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(model.schedule))
    tokenizer = model.tokenizer
    for name in ("encode", "decode"):
        setattr(tokenizer, name, torch.compile(getattr(tokenizer, name), backend=backend, fullgraph=True))
    model.backbone.compile(backend=backend, fullgraph=True)
    return model


def captured(function: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """``function``, without gradients, recorded as a CUDA graph for inputs of the shape of ``example``.

    A call replays its kernels in one launch, all steps of the serial mode with them, and waits for nothing; it gives a
    new tensor. Whatever ``function`` reads besides must stay where it is. On other devices this is the function itself.
    """
    if example.device.type != "cuda":
        return function
    given, stream = example.clone(), torch.cuda.Stream(example.device)
    stream.wait_stream(torch.cuda.current_stream(example.device))
    with torch.inference_mode(), torch.cuda.stream(stream):  # what is made once, and chosen by trial, is made here
        for _ in range(3):
            function(given)
    torch.cuda.current_stream(example.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        made = function(given)

    def replay(x: Tensor) -> Tensor:
        if x.shape != given.shape:
            raise ConfigError(
                f"a pass recorded for {list(given.shape)} is given {list(x.shape)}", expected="inputs of one shape"
            )
        given.copy_(x)
        graph.replay()
        return made.clone()

    return replay


class PhaseUpsample(nn.Module):
    """`Upsample` without the doubled input: each of the four pixels of a cell is a 2x2 convolution of the small map.

    After nearest-neighbour doubling the three taps of a row fall on two input cells, so two can be added before: 2.25
    times fewer multiplications, the same sums.
    """

    def __init__(self, upsample: Upsample) -> None:
        super().__init__()
        self.phases = nn.ModuleList(
            _convolution(columns, upsample.conv.bias)
            for rows in _pairs(upsample.conv.weight, 2)
            for columns in _pairs(rows, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padded = F.pad(x, (1, 1, 1, 1))
        windows = (padded[:, :, i : i + height + 1, j : j + width + 1] for i in (0, 1) for j in (0, 1))
        made = [phase(window) for phase, window in zip(self.phases, windows, strict=True)]
        shape = (*made[0].shape[:2], 2 * height, 2 * width)
        out = torch.empty(shape, dtype=made[0].dtype, device=x.device, memory_format=torch.channels_last)
        for number, part in enumerate(made):
            out[:, :, number // 2 :: 2, number % 2 :: 2] = part
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


class FusedBlock(AdaLNBlock):
    """`AdaLNBlock` that reads and writes its tokens fewer times."""

    def __init__(self, block: AdaLNBlock) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(vars(block))

    def modulated(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        if len(scale) > 1:
            return torch.addcmul(shift, F.layer_norm(x, (self.width,), eps=self.norm_eps), 1 + scale)
        return F.layer_norm(x, (self.width,), 1 + scale.flatten(), shift.flatten(), self.norm_eps)

    def added(self, x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
        return torch.addcmul(x, branch, gate)


class FusedFeedForward(nn.Module):
    """`FeedForward` whose first layer brings its activation along."""

    def __init__(self, feed_forward: FeedForward, make: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.up, self.down = make(feed_forward.up, "gelu"), make(feed_forward.down)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.up(x))
        return out


class FastResidual(nn.Module):
    """`Residual` that overwrites what it made itself, with `WinogradConv`s where they pay."""

    def __init__(self, residual: Residual) -> None:
        super().__init__()
        self.norm1, self.norm2, self.shortcut = residual.norm1, residual.norm2, residual.shortcut
        self.conv1, self.conv2 = (
            _convolution(conv.weight, conv.bias, padding=1) for conv in (residual.conv1, residual.conv2)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        out: Tensor = h.add_(self.shortcut(x))
        return out


def _convolution(weight: Tensor, bias: Tensor | None, padding: int = 0) -> nn.Module:
    """A convolution of stride 1: a `WinogradConv` where that is faster and its filters are not too large."""
    outputs, inputs, *taps = weight.shape
    pays = min(outputs, inputs) >= WINOGRAD_CHANNELS and outputs * inputs <= WINOGRAD_PRODUCT
    if pays and bias is not None and weight.device.type == "cpu" and weight.dtype == torch.float32:
        return WinogradConv(weight, bias, padding=padding)
    conv = nn.Conv2d(inputs, outputs, taps[0], padding=padding, device="meta")
    conv.weight, conv.bias = nn.Parameter(weight), bias if bias is None else nn.Parameter(bias)
    return conv


def _replace(module: nn.Module, kind: type[Kind], make: Callable[[Kind], nn.Module]) -> None:
    """Put ``make(part)`` in the place of every part of that kind."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is kind:
                setattr(parent, name, make(child))
