"""Green lists: which half of the codes is made likelier in a cell (arXiv 2301.10226).

A picture that is read again has other codes than were drawn, though near ones. So near codes are on the same list:
those on one side of a plane through the middle of all codes, which every cell has for its own. Bits stay as they are
more often, and each has a green value (as BitMark marks bits, arXiv 2506.21209).
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from cyclevar.core.interfaces import Quantizer
from cyclevar.quantizers.bitwise import BitwiseQuantizer


def green_logits(key: str, scale: int, cells: int, quantizer: Quantizer) -> Tensor:
    """Which logits are of green codes: bool ``[cells,logit_dim]``."""
    if isinstance(quantizer, BitwiseQuantizer):
        wanted = _bits(key, scale, cells, quantizer.channels)
        return torch.stack([~wanted, wanted], dim=-1).flatten(1)
    return _planes(key, scale, cells, quantizer.channels) @ _centred(quantizer).T > 0


def green_codes(key: str, scale: int, codes: Tensor, quantizer: Quantizer) -> Tensor:
    """Which codes ``[B,h,w]`` or bits ``[B,h,w,d]`` of a scale are green: bool ``[B,n]``."""
    codes = codes.cpu().flatten(1, 2)
    if isinstance(quantizer, BitwiseQuantizer):
        return (codes == _bits(key, scale, codes.shape[1], quantizer.channels)).flatten(1)
    return (_centred(quantizer)[codes] * _planes(key, scale, codes.shape[1], quantizer.channels)).sum(-1) > 0


def _random(key: str, scale: int) -> np.random.Generator:
    secret = hashlib.sha256(key.encode()).digest()
    return np.random.default_rng([int.from_bytes(secret, "little"), scale])


def _bits(key: str, scale: int, cells: int, bits: int) -> Tensor:
    """The green value of every bit: bool ``[cells,bits]``."""
    return torch.from_numpy(_random(key, scale).random((cells, bits)) < 0.5)


def _planes(key: str, scale: int, cells: int, channels: int) -> Tensor:
    """The normal of every cell's plane: float ``[cells,channels]``."""
    return torch.from_numpy(_random(key, scale).standard_normal((cells, channels)).astype(np.float32))


def _centred(quantizer: Quantizer) -> Tensor:
    """The vectors of all codes, of mean 0 and deviation 1 in every channel: float ``[logit_dim,channels]``."""
    codes = torch.arange(quantizer.logit_dim, device=next(quantizer.parameters()).device)
    vectors = quantizer.lookup(codes).detach().float().cpu()
    return (vectors - vectors.mean(0)) / vectors.std(0)
