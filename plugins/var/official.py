"""The published names of VAR's tensors (files ``vae_ch160v4096z32.pth`` and ``var_d*.pth``), for both directions."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from cyclevar.core.names import NameTable, scale_causal_bias, scale_index
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.plugins.var.config import VarBackboneConfig, VarTokenizerConfig


def _affine(ours: str, published: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.weight", f"{published}.weight"
    yield f"{ours}.bias", f"{published}.bias"


def _residual(ours: str, published: str, shortcut: bool) -> Iterator[tuple[str, str]]:
    for part in ("norm1", "conv1", "norm2", "conv2"):
        yield from _affine(f"{ours}.{part}", f"{published}.{part}")
    if shortcut:
        yield from _affine(f"{ours}.shortcut", f"{published}.nin_shortcut")


def _attention(ours: str, published: str) -> Iterator[tuple[str, str]]:
    for mine, theirs in (("norm", "norm"), ("qkv", "qkv"), ("out", "proj_out")):
        yield from _affine(f"{ours}.{mine}", f"{published}.{theirs}")


def _convnet(config: VarTokenizerConfig, half: str) -> Iterator[tuple[str, str]]:
    """One half of the autoencoder: ``encoder`` or ``decoder``."""
    encoder = half == "encoder"
    channels = [config.width * m for m in config.multipliers]
    last = len(channels) - 1
    yield from _affine(f"{half}.stem", f"{half}.conv_in")
    yield from _residual(f"{half}.middle.0", f"{half}.mid.block_1", False)
    yield from _attention(f"{half}.middle.1", f"{half}.mid.attn_1")
    yield from _residual(f"{half}.middle.2", f"{half}.mid.block_2", False)
    for level, width in enumerate(channels):
        before = (config.width, *channels)[level] if encoder else channels[min(level + 1, last)]
        ours, published = f"{half}.levels.{level}", f"{half}.{'down' if encoder else 'up'}.{level}"
        for i in range(config.residual_blocks + (0 if encoder else 1)):
            yield from _residual(f"{ours}.residuals.{i}", f"{published}.block.{i}", i == 0 and before != width)
            if level == last:
                yield from _attention(f"{ours}.attentions.{i}", f"{published}.attn.{i}")
        if encoder and level < last:
            yield from _affine(f"{ours}.resample.conv", f"{published}.downsample.conv")
        if not encoder and level > 0:
            yield from _affine(f"{ours}.resample.conv", f"{published}.upsample.conv")
    yield from _affine(f"{half}.norm", f"{half}.norm_out")
    yield from _affine(f"{half}.out", f"{half}.conv_out")


def tokenizer_names(config: VarTokenizerConfig, schedule: ScaleSchedule) -> NameTable:
    """Names of the tokenizer's tensors."""
    names = dict(_convnet(config, "encoder")) | dict(_convnet(config, "decoder"))
    names |= dict(_affine("before_quantizer", "quant_conv")) | dict(_affine("after_quantizer", "post_quant_conv"))
    names["quantizer.codebook"] = "quantize.embedding.weight"
    for i in range(config.phi_count):
        published = "quantize.quant_resi.qresi" if config.phi_count == 1 else f"quantize.quant_resi.qresi_ls.{i}"
        names |= dict(_affine(f"phi.{i}", published))
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
    names |= dict(_affine("embed", "word_embed")) | dict(_affine("head", "head"))
    names |= dict(_affine("head_modulation", "head_nm.ada_lin.1"))
    if config.shared_adaln:
        names |= dict(_affine("modulation", "shared_ada_lin.1"))
    derived = {
        "lvl_1L": lambda: scale_index(schedule.lengths),
        "attn_bias_for_masking": lambda: scale_causal_bias(schedule.lengths),
    }
    for i in range(config.depth):
        ours, published = f"blocks.{i}", f"blocks.{i}"
        names[f"{ours}.attention.qkv.weight"] = f"{published}.attn.mat_qkv.weight"
        names[f"{ours}.attention.query_bias"] = f"{published}.attn.q_bias"
        names[f"{ours}.attention.value_bias"] = f"{published}.attn.v_bias"
        if config.qk_norm:
            names[f"{ours}.attention.log_scale"] = f"{published}.attn.scale_mul_1H11"
        names |= dict(_affine(f"{ours}.attention.out", f"{published}.attn.proj"))
        names |= dict(_affine(f"{ours}.feed_forward.up", f"{published}.ffn.fc1"))
        names |= dict(_affine(f"{ours}.feed_forward.down", f"{published}.ffn.fc2"))
        if config.shared_adaln:
            names[f"{ours}.modulation_offset"] = f"{published}.ada_gss"
        else:
            names |= dict(_affine(f"{ours}.modulation", f"{published}.ada_lin.1"))
        derived[f"{published}.attn.zero_k_bias"] = lambda: torch.zeros(config.width)
    return NameTable(names, derived, wrappers=[("trainer", "var_wo_ddp")])
