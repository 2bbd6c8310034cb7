"""Index-wise quantization against a codebook, and its softmax relaxation (SRQ, CycleVAR Eq. 10-11)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclevar.core.interfaces.quantizer import CodebookQuantizer, Generators, Quantized
from cyclevar.quantizers.config import IndexConfig
from cyclevar.quantizers.sampling import draw, filter_logits, gumbel_noise, require_positive
from cyclevar.quantizers.straight_through import straight_through

Metric = Literal["euclidean", "cosine"]


DISTANCES = 2**22
"""So many distances are computed at once: larger pieces spend their time on getting memory."""


class IndexQuantizer(CodebookQuantizer):
    """A codebook of ``size`` vectors.

    ``metric="euclidean"`` compares raw vectors (VAR); ``"cosine"`` compares and emits unit vectors (FlexVAR), whatever
    the length of the stored rows. Of several nearest codes the first wins.
    """

    def __init__(self, size: int, channels: int, metric: Metric = "euclidean") -> None:
        super().__init__()
        self.size, self.channels, self.logit_dim, self.metric = size, channels, size, metric
        self.codebook = nn.Parameter(nn.init.trunc_normal_(torch.empty(size, channels), std=channels**-0.5))

    def vectors(self) -> Tensor:
        """The vectors that codes stand for, ``[size,C]``: unit length under the cosine metric."""
        return self.comparable(self.codebook)

    def comparable(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.metric == "cosine" else vectors

    def quantize(self, maps: Tensor) -> Quantized:
        if self.metric == "cosine":
            maps = F.normalize(maps, dim=1)
        positions = maps.detach().permute(0, 2, 3, 1).float()
        vectors = self.vectors().detach().float()
        with torch.autocast(maps.device.type, enabled=False):
            parts = positions.flatten(0, 2).split(max(1, DISTANCES // self.size))
            codes = torch.cat([_nearest(part, vectors) for part in parts]).view(positions.shape[:-1])
        hard = self.lookup(codes).permute(0, 3, 1, 2)
        return Quantized(straight_through(maps, hard), codes)

    def lookup(self, codes: Tensor) -> Tensor:
        return F.embedding(codes, self.vectors())

    def relax(self, logits: Tensor, temperature: float, gumbel: bool = False) -> Tensor:
        require_positive(temperature)
        logits = logits.float()
        if gumbel:
            logits = logits + gumbel_noise(logits)
        with torch.autocast(logits.device.type, enabled=False):
            return (logits / temperature).softmax(-1) @ self.vectors().detach().float()

    def harden(self, logits: Tensor) -> Quantized:
        codes = logits.argmax(-1)
        return Quantized(self.lookup(codes), codes)

    def sample(self, logits: Tensor, top_k: int = 0, top_p: float = 0.0, generator: Generators = None) -> Tensor:
        return draw(filter_logits(logits, top_k, top_p), generator)

    def nll(self, logits: Tensor, codes: Tensor) -> Tensor:
        return F.cross_entropy(logits.float().flatten(0, -2), codes.flatten(), reduction="none").view(codes.shape)

    def entropy(self, logits: Tensor, temperature: float) -> Tensor:
        log_probabilities = (logits.float() / temperature).log_softmax(-1)
        return -(log_probabilities.exp() * log_probabilities).sum(-1)


def build(channels: int, config: IndexConfig) -> IndexQuantizer:
    """A code book for vectors of ``channels``."""
    return IndexQuantizer(config.size, channels, config.metric)


def _nearest(positions: Tensor, vectors: Tensor) -> Tensor:
    """The first of the vectors ``[V,C]`` nearest to each position ``[n,C]``: int64 ``[n]``."""
    distances = vectors.square().sum(1) - 2 * positions @ vectors.T
    return (positions.square().sum(-1, keepdim=True) + distances).argmin(-1)
