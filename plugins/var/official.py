"""The published names of VAR's tensors (files ``vae_ch160v4096z32.pth`` and ``var_d*.pth``), for both directions."""

from __future__ import annotations

import torch

from cyclevar.core.names import (
    NameTable,
    affine_names,
    autoencoder_names,
    block_names,
    scale_causal_bias,
    scale_index,
)
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.var.config import VarBackboneConfig, VarTokenizerConfig


def tokenizer_names(config: VarTokenizerConfig, schedule: ScaleSchedule) -> NameTable:
    """Names of the tokenizer's tensors."""
    names = autoencoder_names(config.width, config.multipliers, config.residual_blocks, attention=True)
    names |= affine_names("before_quantizer", "quant_conv") | affine_names("after_quantizer", "post_quant_conv")
    names["quantizer.codebook"] = "quantize.embedding.weight"
    for i in range(config.phi_count):
        published = "quantize.quant_resi.qresi" if config.phi_count == 1 else f"quantize.quant_resi.qresi_ls.{i}"
        names |= affine_names(f"phi.{i}", published)
    hits = "quantize.ema_vocab_hit_SV"
    derived = {hits: lambda: torch.zeros(len(schedule), config.codebook_size)}
    return NameTable(names, derived, wrappers=[("trainer", "vae_local")])


def backbone_names(config: VarBackboneConfig, schedule: ScaleSchedule) -> NameTable:
    """Names of the transformer's tensors. Rows of added domains have no published name."""
    names = {
        "start_position": "pos_start",
        "position": "pos_1LC",
        "scale_embedding": "lvl_embed.weight",
        "class_embedding": "class_emb.weight",
    }
    names |= affine_names("embed", "word_embed") | affine_names("head", "head")
    names |= affine_names("head_modulation", "head_nm.ada_lin.1")
    if config.shared_adaln:
        names |= affine_names("modulation", "shared_ada_lin.1")
    derived = {
        "lvl_1L": lambda: scale_index(schedule.lengths),
        "attn_bias_for_masking": lambda: scale_causal_bias(schedule.lengths),
    }
    for i in range(config.depth):
        block = f"blocks.{i}"  # ours and the published one
        names |= block_names(block, block, attention="attn", qk_norm=config.qk_norm)
        if config.shared_adaln:
            names[f"{block}.modulation_offset"] = f"{block}.ada_gss"
        else:
            names |= affine_names(f"{block}.modulation", f"{block}.ada_lin.1")
        derived[f"{block}.attn.zero_k_bias"] = lambda: torch.zeros(config.width)
    return NameTable(names, derived, wrappers=[("trainer", "var_wo_ddp")])
