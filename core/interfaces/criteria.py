"""What rates images: losses, metrics, discriminators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn


class PictureLoss(nn.Module, ABC):
    """A loss between pictures and what they should be; what it looks with is frozen."""

    frozen: str = ""
    """Name and hash of the weights that it looks with: a run records them."""

    @abstractmethod
    def forward(self, output: Tensor, images: Tensor) -> Tensor:
        """A scalar, 0 for equal pictures ``[B,3,H,W]`` in [-1,1], differentiable in ``output``."""


class PictureMetric(nn.Module, ABC):
    """A figure of the evaluation: what is seen of every picture, and what follows from it for a set of pictures."""

    title: str
    """How tables call it."""
    form: str = "{:.3f}"
    """How a value is written."""
    against: Literal["source", "target", "pair"] = "target"
    """What a set is compared with: the pictures that it was made from, those of the domain that it should look like
    (which may be another number of pictures), or, picture by picture, the true counterparts."""
    needed: int = 2
    """Pictures on either side below which it says nothing."""
    frozen: str = ""
    """Name and hash of the weights that it looks with."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Images ``[B,3,H,W]`` in [-1,1] to what the figure needs of each, ``[B,...]``: computed once, and cached."""

    @abstractmethod
    def compare(self, made: Tensor, others: Tensor) -> Tensor:
        """Features ``[N,...]`` and ``[M,...]``, on the CPU, to the figure: a scalar, or ``[N]``, a value a picture.

        Against ``source`` and ``pair``, N equals M and row i belongs to row i. Values a picture become their mean with
        an interval.
        """


class Discriminator(nn.Module, ABC):
    """Judges whether pictures belong to a domain: trainable heads, possibly over frozen features."""

    frozen: str = ""
    """Name and hash of frozen weights that came from a file and are no part of the state: a run records them."""

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Images ``[B,3,H,W]`` in [-1,1] to logit maps, one tensor per head, larger means more real."""
