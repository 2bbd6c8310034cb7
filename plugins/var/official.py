"""The published names of VAR's tensors (files ``vae_ch160v4096z32.pth`` and ``var_d*.pth``), for both directions."""

from __future__ import annotations

import torch

from cyclevar.core.schedule import ScaleSchedule
from cyclevar.core.weights.name_table import NameTable
from cyclevar.core.weights.published_names import affine_names, autoencoder_names, class_conditional_names, scale_index
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
    names, derived = class_conditional_names(config, schedule)
    names["scale_embedding"] = "lvl_embed.weight"
    derived["lvl_1L"] = lambda: scale_index(schedule.lengths)
    return NameTable(names, derived, wrappers=[("trainer", "var_wo_ddp")])
