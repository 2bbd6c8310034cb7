"""The published names of FlexVAR's tensors (files ``FlexVAE.pth`` and ``FlexVARd*.pth``), for both directions."""

from __future__ import annotations

import re

import torch

from cyclevar.core.schedule import ScaleSchedule
from cyclevar.core.weights.name_table import NameTable
from cyclevar.core.weights.published_names import affine_names, autoencoder_names, class_conditional_names
from cyclevar.plugins.flexvar.config import FlexVarBackboneConfig, FlexVarTokenizerConfig

USED_CODES = 65536
"""Length of a buffer of the published tokenizer that remembers which codes were used lately."""

_MIDDLE = {"block_1": "0", "attn_1": "1", "block_2": "2"}


def tokenizer_names(config: FlexVarTokenizerConfig) -> NameTable:
    """Names of the tokenizer's tensors: those of latent diffusion in LlamaGen's spelling."""
    last = len(config.multipliers) - 1
    names: dict[str, str | tuple[str, ...]] = {
        ours: _respelled(published, last)
        for ours, published in autoencoder_names(
            config.width, config.multipliers, config.residual_blocks, attention=True
        ).items()
    }
    names |= affine_names("before_quantizer", "quant_conv") | affine_names("after_quantizer", "post_quant_conv")
    names["quantizer.codebook"] = "quantize.embedding.weight"
    return NameTable(names, {"quantize.codebook_used": lambda: torch.zeros(USED_CODES)}, wrappers=[("model",)])


def _respelled(name: str, last: int) -> str | tuple[str, ...]:
    """LlamaGen numbers the decoder's levels in the order in which they run, and keeps q, k and v of attention apart."""
    name = re.sub(r"\.mid\.(\w+)", lambda found: f".mid.{_MIDDLE[found[1]]}", name)
    name = re.sub(r"\.down\.(\d+)", r".conv_blocks.\1", name)
    name = re.sub(r"\.up\.(\d+)", lambda found: f".conv_blocks.{last - int(found[1])}", name)
    name = name.replace(".block.", ".res.")
    return tuple(name.replace(".qkv.", f".{part}.") for part in "qkv") if ".qkv." in name else name


def backbone_names(config: FlexVarBackboneConfig, schedule: ScaleSchedule) -> NameTable:
    """Names of the transformer's tensors. Rows of added domains have no published name.

    The mask that the published files carry is made for the schedule of their last update, and left alone.
    """
    names, derived = class_conditional_names(config, schedule)
    return NameTable(names, derived, wrappers=[("trainer", "var_wo_ddp")])
