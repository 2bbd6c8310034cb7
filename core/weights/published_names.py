"""Name tables: our parameter names against the published ones, both ways, with a report of what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from cyclevar.core.config.families import ClassConditionalConfig
from cyclevar.core.schedule import ScaleSchedule


def affine_names(ours: str, published: str) -> dict[str, str]:
    """The names of a layer with weight and bias."""
    return {f"{ours}.{part}": f"{published}.{part}" for part in ("weight", "bias")}


def autoencoder_names(width: int, multipliers: Sequence[int], blocks: int, *, attention: bool) -> dict[str, str]:
    """The names of `networks.autoencoder.Encoder` and ``Decoder``, as latent diffusion's autoencoder has them."""
    halves = (_convnet_names(half, width, multipliers, blocks, attention) for half in ("encoder", "decoder"))
    return {ours: published for names in halves for ours, published in names}


def _convnet_names(
    half: str, width: int, multipliers: Sequence[int], blocks: int, attention: bool
) -> Iterator[tuple[str, str]]:
    encoder = half == "encoder"
    channels = [width * m for m in multipliers]
    last = len(channels) - 1
    yield from affine_names(f"{half}.stem", f"{half}.conv_in").items()
    yield from _residual_names(f"{half}.middle.0", f"{half}.mid.block_1", False)
    if attention:
        yield from _spatial_attention_names(f"{half}.middle.1", f"{half}.mid.attn_1")
    yield from _residual_names(f"{half}.middle.2", f"{half}.mid.block_2", False)
    for level, outputs in enumerate(channels):
        inputs = (width, *channels)[level] if encoder else channels[min(level + 1, last)]
        ours, published = f"{half}.levels.{level}", f"{half}.{'down' if encoder else 'up'}.{level}"
        for i in range(blocks if encoder else blocks + 1):
            yield from _residual_names(f"{ours}.residuals.{i}", f"{published}.block.{i}", i == 0 and inputs != outputs)
            if attention and level == last:
                yield from _spatial_attention_names(f"{ours}.attentions.{i}", f"{published}.attn.{i}")
        if encoder and level < last:
            yield from affine_names(f"{ours}.resample.conv", f"{published}.downsample.conv").items()
        if not encoder and level > 0:
            yield from affine_names(f"{ours}.resample.conv", f"{published}.upsample.conv").items()
    yield from affine_names(f"{half}.norm", f"{half}.norm_out").items()
    yield from affine_names(f"{half}.out", f"{half}.conv_out").items()


def _residual_names(ours: str, published: str, shortcut: bool) -> Iterator[tuple[str, str]]:
    for part in ("norm1", "conv1", "norm2", "conv2"):
        yield from affine_names(f"{ours}.{part}", f"{published}.{part}").items()
    if shortcut:
        yield from affine_names(f"{ours}.shortcut", f"{published}.nin_shortcut").items()


def _spatial_attention_names(ours: str, published: str) -> Iterator[tuple[str, str]]:
    for mine, theirs in (("norm", "norm"), ("qkv", "qkv"), ("out", "proj_out")):
        yield from affine_names(f"{ours}.{mine}", f"{published}.{theirs}").items()


def block_names(ours: str, published: str, *, attention: str, qk_norm: bool) -> dict[str, str]:
    """The names of an `AdaLNBlock`'s self-attention (published as ``attention``) and feed-forward."""
    names = {
        f"{ours}.attention.qkv.weight": f"{published}.{attention}.mat_qkv.weight",
        f"{ours}.attention.query_bias": f"{published}.{attention}.q_bias",
        f"{ours}.attention.value_bias": f"{published}.{attention}.v_bias",
    }
    if qk_norm:
        names[f"{ours}.attention.log_scale"] = f"{published}.{attention}.scale_mul_1H11"
    names |= affine_names(f"{ours}.attention.out", f"{published}.{attention}.proj")
    names |= affine_names(f"{ours}.feed_forward.up", f"{published}.ffn.fc1")
    return names | affine_names(f"{ours}.feed_forward.down", f"{published}.ffn.fc2")


def scale_index(lengths: tuple[int, ...]) -> Tensor:
    """The scale of every token, int64 ``[1,L]``: a buffer of the published transformers."""
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]


def scale_causal_bias(lengths: tuple[int, ...]) -> Tensor:
    """0 where a token may look (its own scale or a coarser one), else -inf; float ``[1,1,L,L]``: a published buffer."""
    scale = scale_index(lengths)[0]
    blocked = scale[:, None] < scale[None, :]
    return torch.zeros(blocked.shape).masked_fill(blocked, -torch.inf)[None, None]


def class_conditional_names(
    config: ClassConditionalConfig, schedule: ScaleSchedule
) -> tuple[dict[str, str], dict[str, Callable[[], Tensor]]]:
    """The published names of what the class above has, and the buffers that go with them (see `NameTable`)."""
    names = {"start_position": "pos_start", "position": "pos_1LC", "class_embedding": "class_emb.weight"}
    names |= affine_names("embed", "word_embed") | affine_names("head", "head")
    names |= affine_names("head_modulation", "head_nm.ada_lin.1")
    if config.shared_adaln:
        names |= affine_names("modulation", "shared_ada_lin.1")
    derived: dict[str, Callable[[], Tensor]] = {"attn_bias_for_masking": lambda: scale_causal_bias(schedule.lengths)}
    for i in range(config.depth):
        block = f"blocks.{i}"  # ours and the published one
        names |= block_names(block, block, attention="attn", qk_norm=config.qk_norm)
        if config.shared_adaln:
            names[f"{block}.modulation_offset"] = f"{block}.ada_gss"
        else:
            names |= affine_names(f"{block}.modulation", f"{block}.ada_lin.1")
        derived[f"{block}.attn.zero_k_bias"] = lambda: torch.zeros(config.width)
    return names, derived
