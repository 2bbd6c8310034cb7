"""Quantizers: vectors to codes and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

Generators = torch.Generator | Sequence[torch.Generator] | None
"""Where random numbers come from: one generator for all, one per picture (first axis), or None: the global state."""


class Quantized(NamedTuple):
    """Quantized vectors and their codes.

    ``maps``: float, in the layout of what was quantized (``[B,C,h,w]``, or ``[...,C]`` from logits);
    ``codes``: int64 ``[B,h,w]`` indices, or bool ``[B,h,w,d]`` bits, without the channel axis.
    """

    maps: Tensor
    codes: Tensor


class Quantizer(nn.Module, ABC):
    """Vectors to codes and back, hard or soft. Vectors are ``[B,C,h,w]`` in ``quantize``, ``[...,C]`` elsewhere."""

    channels: int
    logit_dim: int

    @abstractmethod
    def quantize(self, maps: Tensor) -> Quantized:
        """Nearest code of every position of ``[B,C,h,w]``; gradients pass straight through to ``maps``."""

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Codes to vectors ``[...,C]``."""

    @abstractmethod
    def relax(self, logits: Tensor, temperature: float, gumbel: bool = False) -> Tensor:
        """Softmax Relaxed Quantization: logits ``[...,logit_dim]`` to expected codes ``[...,C]``, float32 (Eq. 10-11).

        ``gumbel`` adds Gumbel noise to the logits before the division by ``temperature``.
        """

    @abstractmethod
    def harden(self, logits: Tensor) -> Quantized:
        """The most probable code of every position, vectors ``[...,C]``: the limit of ``relax`` at temperature 0."""

    @abstractmethod
    def sample(self, logits: Tensor, top_k: int = 0, top_p: float = 0.0, generator: Generators = None) -> Tensor:
        """Draw codes from logits ``[B,...,logit_dim]`` after top-k and top-p filtering (0 switches a filter off).

        With a generator per picture, what is drawn for one does not depend on the others.
        """

    @abstractmethod
    def nll(self, logits: Tensor, codes: Tensor) -> Tensor:
        """Negative log-likelihood of ``codes`` in nats, float32, without the last axis of ``logits``."""

    @abstractmethod
    def entropy(self, logits: Tensor, temperature: float) -> Tensor:
        """Entropy in nats of the choice that `relax` averages over, float32, without the last axis of ``logits``."""


class CodebookQuantizer(Quantizer, ABC):
    """A quantizer whose codes are the rows of a learned table, which training starts by k-means and refills."""

    codebook: nn.Parameter
    """float ``[logit_dim,C]``."""

    @abstractmethod
    def comparable(self, vectors: Tensor) -> Tensor:
        """Vectors ``[...,C]`` as they are when they are compared with codes: what a code can equal."""
