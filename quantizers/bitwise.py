"""Quantization of every channel to one bit, and its relaxation by a softmax over the two values of each bit.

LFQ is arXiv 2310.05737, BSQ arXiv 2406.07548; the relaxation is CycleVAR's for Infinity (Eq. 10-11 bit by bit).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.interfaces.quantizer import Generators, Quantized, Quantizer
from cyclevar.quantizers.config import BitwiseConfig
from cyclevar.quantizers.sampling import draw, filter_logits, gumbel_noise, require_positive
from cyclevar.quantizers.straight_through import straight_through

Kind = Literal["bsq", "lfq"]


class BitwiseQuantizer(Quantizer):
    """Codes are bool ``[B,h,w,C]``, one bit a channel: set where the channel is above zero.

    ``kind="bsq"`` (Infinity): vectors are normalized first, bits stand for ``+-1/sqrt(bits)``, so that codes are unit
    vectors. ``"lfq"``: no normalization, bits stand for ``+-1``. Where ``cells`` cells of a latent are folded into
    channels (channel ``c*cells + cell``, as a pixel-unshuffle has them), ``C = bits*cells``, and each cell is a code.

    Logits come in pairs, ``[..., 2*C]``: the even ones are those of cleared bits, the odd ones of set bits.
    """

    def __init__(self, bits: int, kind: Kind = "bsq", cells: int = 1) -> None:
        super().__init__()
        self.bits, self.kind, self.cells = bits, kind, cells
        self.channels, self.logit_dim = bits * cells, 2 * bits * cells
        self.scale = bits**-0.5 if kind == "bsq" else 1.0

    def quantize(self, maps: Tensor) -> Quantized:
        """Float32 whatever ``maps`` are. Under ``bsq`` the gradient passes to the normalized vectors."""
        maps = maps.float()
        if self.kind == "bsq":
            maps = F.normalize(maps.unflatten(1, (self.bits, self.cells)), dim=1).flatten(1, 2)
        codes = (maps.detach() > 0).movedim(1, -1)
        return Quantized(straight_through(maps, self.lookup(codes).movedim(-1, 1)), codes)

    def lookup(self, codes: Tensor) -> Tensor:
        return torch.where(codes, self.scale, -self.scale)

    def relax(self, logits: Tensor, temperature: float, gumbel: bool = False) -> Tensor:
        """The expected code. It is not normalized again: an uncertain vector is short."""
        require_positive(temperature)
        logits = logits.float()
        if gumbel:
            logits = logits + gumbel_noise(logits)
        return self._margin(logits).div(2 * temperature).tanh() * self.scale  # (p1 - p0) * scale

    def harden(self, logits: Tensor) -> Quantized:
        codes = self._margin(logits) > 0
        return Quantized(self.lookup(codes), codes)

    def sample(self, logits: Tensor, top_k: int = 0, top_p: float = 0.0, generator: Generators = None) -> Tensor:
        """Every bit is drawn, and filtered, by itself."""
        return draw(filter_logits(logits.unflatten(-1, (self.channels, 2)), top_k, top_p), generator).bool()

    def nll(self, logits: Tensor, codes: Tensor) -> Tensor:
        """Of whole codes, the sum over their bits; Infinity's loss is the mean over bits, this by `channels`."""
        return F.binary_cross_entropy_with_logits(self._margin(logits.float()), codes.float(), reduction="none").sum(-1)

    def entropy(self, logits: Tensor, temperature: float) -> Tensor:
        margin = self._margin(logits.float()) / temperature
        entropies: Tensor = F.softplus(margin) - margin * margin.sigmoid()
        return entropies.sum(-1)

    def _margin(self, logits: Tensor) -> Tensor:
        """Log-odds of every bit being set, ``[...,C]``."""
        pairs = logits.unflatten(-1, (self.channels, 2))
        margin: Tensor = pairs[..., 1] - pairs[..., 0]
        return margin


def build(channels: int, config: BitwiseConfig) -> BitwiseQuantizer:
    """A bit for each of ``channels``."""
    return BitwiseQuantizer(channels, config.kind)
