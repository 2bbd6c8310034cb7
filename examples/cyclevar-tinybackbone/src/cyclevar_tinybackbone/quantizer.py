"""Finite scalar quantization (FSQ, arXiv 2309.15505), here on an even grid from -1 to 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.interfaces import Generators, Quantized, Quantizer
from cyclevar.quantizers.sampling import draw, filter_logits, gumbel_noise, require_positive
from cyclevar.quantizers.straight_through import straight_through


class GridQuantizer(Quantizer):
    """Every channel is rounded by itself; a code is the number with the channels' levels as its digits."""

    def __init__(self, channels: int = 4, levels: int = 5) -> None:
        super().__init__()
        self.channels, self.levels, self.logit_dim = channels, levels, levels**channels
        self.step = 2 / (levels - 1)

    def quantize(self, maps: Tensor) -> Quantized:
        digits = ((maps.detach().float().clamp(-1, 1) + 1) / self.step).round().long()
        codes = (digits.movedim(1, -1) * self._places(maps)).sum(-1)
        return Quantized(straight_through(maps.float(), self.lookup(codes).movedim(-1, 1)), codes)

    def lookup(self, codes: Tensor) -> Tensor:
        return codes[..., None] // self._places(codes) % self.levels * self.step - 1

    def relax(self, logits: Tensor, temperature: float, gumbel: bool = False) -> Tensor:
        require_positive(temperature)
        logits = logits.float() + (gumbel_noise(logits.float()) if gumbel else 0)
        return (logits / temperature).softmax(-1) @ self.lookup(torch.arange(self.logit_dim, device=logits.device))

    def harden(self, logits: Tensor) -> Quantized:
        codes = logits.argmax(-1)
        return Quantized(self.lookup(codes), codes)

    def sample(self, logits: Tensor, top_k: int = 0, top_p: float = 0.0, generator: Generators = None) -> Tensor:
        return draw(filter_logits(logits, top_k, top_p), generator)

    def nll(self, logits: Tensor, codes: Tensor) -> Tensor:
        return F.cross_entropy(logits.float().movedim(-1, 1), codes, reduction="none")

    def entropy(self, logits: Tensor, temperature: float) -> Tensor:
        log_probabilities = (logits.float() / temperature).log_softmax(-1)
        return -(log_probabilities.exp() * log_probabilities).sum(-1)

    def _places(self, like: Tensor) -> Tensor:
        """What a digit of each channel is worth."""
        return self.levels ** torch.arange(self.channels, device=like.device)
