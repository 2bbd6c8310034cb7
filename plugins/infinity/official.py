"""The published names of Infinity's tensors (``infinity_vae_d*.pth``, ``infinity_2b_reg.pth``, sharded folders)."""

from __future__ import annotations

import torch
from torch import Tensor

from cyclevar.core.weights.name_table import NameTable
from cyclevar.core.weights.published_names import affine_names, autoencoder_names, block_names
from cyclevar.plugins.infinity.config import WORDS, InfinityBackboneConfig, InfinityTokenizerConfig


def tokenizer_names(config: InfinityTokenizerConfig) -> NameTable:
    """Names of the tokenizer's tensors. Files without the inner names of wrapped layers are taken too."""
    plain = autoencoder_names(config.width, config.multipliers, config.residual_blocks, attention=config.attention)
    names = {ours: _wrapped(published) for ours, published in plain.items()}
    derived = {f"{module}.lfq.mask": lambda: bit_values(config.bits) for module in ("quantizer", "quantize")}
    aliases = {published: names[ours] for ours, published in plain.items()}
    return NameTable(names, derived, wrappers=[("vae",), ("ema",)], aliases=aliases)


def _wrapped(name: str) -> str:
    """``encoder.norm_out.weight`` -> ``encoder.norm_out.norm.weight``: every layer is published inside a wrapper."""
    layer, _, parameter = name.rpartition(".")
    kind = "norm" if layer.rpartition(".")[2].startswith("norm") else "conv"
    return f"{layer}.{kind}.{parameter}"


def bit_values(bits: int) -> Tensor:
    """What each bit adds to a code's number, int64 ``[bits]``, a published buffer; the 64th overflows, as published."""
    return torch.ones(bits, dtype=torch.int64) << torch.arange(bits - 1, -1, -1)


def backbone_names(config: InfinityBackboneConfig) -> NameTable:
    """Names of the transformer's tensors. Blocks may be numbered through, or in ``config.chunks`` chunks.

    Stored prompts have no published name. The text encoder ``words``, which no published model has, keeps its own.
    """
    names = {
        "null_embedding": "cfg_uncond",
        "start_position": "pos_start",
        "scale_embedding": "lvl_embed.weight",
        "text_norm.weight": "text_norm.weight",
        "pool.query": "text_proj_for_sos.ca.mat_q",
        "pool.value_bias": "text_proj_for_sos.ca.v_bias",
        "pool.key_value.weight": "text_proj_for_sos.ca.mat_kv.weight",
    }
    names |= affine_names("pool.out", "text_proj_for_sos.ca.proj")
    names |= affine_names("text_projection.0", "text_proj_for_ca.0")
    names |= affine_names("text_projection.2", "text_proj_for_ca.2")
    names |= affine_names("embed", "word_embed") | affine_names("modulation", "shared_ada_lin.1")
    names |= affine_names("head_modulation", "head_nm.ada_lin.1") | affine_names("head", "head")
    if config.text_encoder == WORDS:
        names["words.embedding"] = "words.embedding"
    derived = {"text_proj_for_sos.ca.zero_k_bias": lambda: torch.zeros(config.width)}
    aliases: dict[str, str] = {}
    for i in range(config.depth):
        ours, published = f"blocks.{i}", _block(i, config)
        block = block_names(ours, published, attention="sa", qk_norm=True)
        block[f"{ours}.modulation_offset"] = f"{published}.ada_gss"
        block |= affine_names(f"{ours}.text_norm", f"{published}.ca_norm")
        block |= affine_names(f"{ours}.text_attention.query", f"{published}.ca.mat_q")
        block |= affine_names(f"{ours}.text_attention.out", f"{published}.ca.proj")
        block[f"{ours}.text_attention.key_value.weight"] = f"{published}.ca.mat_kv.weight"
        block[f"{ours}.text_attention.value_bias"] = f"{published}.ca.v_bias"
        zeros = [f"{published}.{attention}.zero_k_bias" for attention in ("sa", "ca")]
        derived |= {name: lambda: torch.zeros(config.width) for name in zeros}
        names |= block
        aliases |= {name.replace(published, f"blocks.{i}", 1): name for name in (*block.values(), *zeros)}
    return NameTable(
        names,
        derived,
        wrappers=[("trainer", name) for name in ("gpt_fsdp", "gpt_ema_fsdp", "gpt_wo_ddp")],
        aliases=aliases,
        stale=("lvl_1L", "attn_bias_for_masking"),
        fits={"cfg_uncond": _rows},
    )


def _block(index: int, config: InfinityBackboneConfig) -> str:
    if config.chunks == 1:
        return f"blocks.{index}"
    chunk, place = divmod(index, config.depth // config.chunks)
    return f"block_chunks.{chunk}.module.{place}"


def _rows(table: Tensor, shape: torch.Size) -> Tensor:
    """The null prompt ``[T,C]`` cut to fewer rows, or continued with the mean of its rows."""
    if table.ndim != 2 or not table.numel() or not table.is_floating_point():
        return table  # no null prompt, and refused for its shape
    missing = shape[0] - table.shape[0]
    return table[: shape[0]] if missing <= 0 else torch.cat([table, table.mean(0, keepdim=True).expand(missing, -1)])
