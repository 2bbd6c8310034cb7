"""Transformer parts that two or more backbones share: AdaLN blocks with scale-wise attention (VAR Sec. 4, DiT)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclevar.core.attention.cache import KeyValueCache
from cyclevar.core.attention.kernels import attend, attend_to_text
from cyclevar.core.attention.plan import AttentionPlan
from cyclevar.core.runtime.batch_random import draw

MAX_LOG_SCALE = math.log(100)


Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, each ``[l,head_dim/2]``: by which angle every pair of channels of a token is turned."""


@dataclass(frozen=True)
class Text:
    """What blocks look up: tokens ``[B,T,width]``, of which those that are ``present``, bool ``[B,T]``, count."""

    tokens: Tensor
    present: Tensor | None = None


def exact(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer in float32, under autocast and with weights of lower precision too."""
    with torch.autocast(x.device.type, enabled=False):
        if layer.weight.dtype == torch.float32:
            out: Tensor = layer(x.float())
            return out
        return F.linear(x.float(), layer.weight.float(), None if layer.bias is None else layer.bias.float())


def half_if(weight: Tensor) -> contextlib.AbstractContextManager[object]:
    """Autocast to the type of weights of half precision; for float32 weights, whatever is in force."""
    half = weight.dtype in (torch.bfloat16, torch.float16)
    return torch.autocast(weight.device.type, dtype=weight.dtype) if half else contextlib.nullcontext()


def modulated_logits(x: Tensor, condition: Tensor, modulation: nn.Linear, head: nn.Linear, norm_eps: float) -> Tensor:
    """The head of the transformers, float32: layer norm, scale and shift by the condition ``[B,width]``, linear."""
    scale, shift = exact(modulation, F.silu(condition))[:, None].chunk(2, dim=-1)
    return exact(head, F.layer_norm(x.float(), x.shape[-1:], eps=norm_eps) * (1 + scale) + shift)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn neighbouring pairs of channels of ``[B,l,H,D]`` by their tokens' angles (RoFormer, arXiv 2104.09864)."""
    cosine, sine = (table[:, None] for table in rotary)
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1).flatten(-2)


class SelfAttention(nn.Module):
    """Multi-head attention over tokens ``[B,l,width]``; the keys have no bias.

    ``qk_norm`` makes queries and keys unit vectors with a learned scale a head (kept as a logarithm, at most ln 100);
    without it the logits are scaled by ``0.25/sqrt(head_dim)``.
    """

    def __init__(self, width: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.qk_norm = heads, qk_norm
        self.scale = 1.0 if qk_norm else 0.25 / math.sqrt(width // heads)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        if qk_norm:
            self.log_scale = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4.0)))
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, plan: AttentionPlan, cache: KeyValueCache | None, layer: int, rotary: Rotary | None = None
    ) -> Tensor:
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in self.project(x))
        if self.qk_norm:
            query, key = F.normalize(query, dim=-1) * self.head_scale(), F.normalize(key, dim=-1)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        query, key = query.to(value.dtype), key.to(value.dtype)
        if cache is not None:
            key, value = cache.extend(layer, key, value)
            plan = cache.plan(layer, plan)
        mixed: Tensor = self.out(attend(query, key, value, plan, self.scale).flatten(2))
        if cache is not None:
            cache.settle(layer, query, self.scale)
        return mixed

    def project(self, x: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values, each ``[B,l,width]``."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        return query + self.query_bias.to(query.dtype), key, value + self.value_bias.to(value.dtype)

    def head_scale(self) -> Tensor:
        """The learned scale of the normalized queries, ``[1,1,H,1]``."""
        return self.log_scale.clamp_max(MAX_LOG_SCALE).exp().view(1, 1, self.heads, 1)


class TextAttention(nn.Module):
    """Multi-head attention of tokens ``[B,l,width]`` to a text; the keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Text) -> Tensor:
        key, value = self.key_value(text.tokens).chunk(2, dim=-1)
        value = value + self.value_bias.to(value.dtype)
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in (self.query(x), key, value))
        mixed: Tensor = self.out(attend_to_text(query, key, value, text.present).flatten(2))
        return mixed


class FeedForward(nn.Module):
    """Linear, tanh-GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))
        return out


class AdaLNBlock(nn.Module):
    """Attention and feed-forward, each behind a layer norm without parameters, modulated and gated by the condition.

    The six modulation vectors come in the order gate 1, gate 2, scale 1, scale 2, shift 1, shift 2. They are a linear
    map of the condition, the block's own, or an offset to a map that all blocks share. With ``text``, between the two
    stands attention to a text behind a layer norm of its own, neither modulated nor gated (Infinity).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        shared_modulation: bool,
        qk_norm: bool,
        norm_eps: float,
        drop_path: float = 0.0,
        text: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.norm_eps, self.drop_path = width, norm_eps, drop_path
        self.attention = SelfAttention(width, heads, qk_norm=qk_norm)
        if text:
            self.text_norm = nn.LayerNorm(width, eps=norm_eps)
            self.text_attention = TextAttention(width, heads)
        self.feed_forward = FeedForward(width, hidden)
        self.shared_modulation = shared_modulation
        if shared_modulation:
            self.modulation_offset = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, 6, width), std=width**-0.5))
        else:
            self.modulation = nn.Linear(width, 6 * width)

    def modulate(self, condition: Tensor) -> Tensor:
        """The six vectors ``[B,1,6,width]``.

        ``condition``: the condition vector ``[B,width]``, or the shared map of it, ``[B,6*width]``; what this gave
        before is given back.
        """
        if condition.ndim == 4:
            return condition
        if self.shared_modulation:
            return self.modulation_offset + condition.view(-1, 1, 6, self.width)
        six: Tensor = self.modulation(F.silu(condition)).view(-1, 1, 6, self.width)
        return six

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        plan: AttentionPlan,
        cache: KeyValueCache | None,
        layer: int,
        rotary: Rotary | None = None,
        text: Text | None = None,
    ) -> Tensor:
        """Tokens ``[B,l,width]`` to the same; ``condition`` as in `modulate`."""
        gate1, gate2, scale1, scale2, shift1, shift2 = self.modulate(condition).unbind(2)
        h = self.attention(self.modulated(x, scale1, shift1), plan, cache, layer, rotary)
        x = self.added(x, h, gate1)
        if text is not None:
            weight, bias = self.text_norm.weight.to(x.dtype), self.text_norm.bias.to(x.dtype)
            x = x + self.text_attention(F.layer_norm(x, (self.width,), weight, bias, self.norm_eps), text)
        h = self.feed_forward(self.modulated(x, scale2, shift2))
        return self.added(x, h, gate2)

    def modulated(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """What a branch reads of the tokens."""
        return F.layer_norm(x, (self.width,), eps=self.norm_eps) * (1 + scale) + shift

    def added(self, x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
        """The tokens with what a branch made of them."""
        return x + self._dropped(branch * gate)

    def _dropped(self, branch: Tensor) -> Tensor:
        """While training, the branch of some pictures left out, the others' scaled up to keep the mean."""
        if not (self.training and self.drop_path):
            return branch
        kept = draw(len(branch), lambda count: branch.new_empty(count, 1, 1).bernoulli_(1 - self.drop_path))
        return branch * kept / (1 - self.drop_path)


def modulations(blocks: Iterable[nn.Module], condition: Tensor) -> tuple[Tensor, ...]:
    """What `AdaLNBlock.modulate` makes of one condition in every block."""
    return tuple(block.modulate(condition) for block in blocks if isinstance(block, AdaLNBlock))
