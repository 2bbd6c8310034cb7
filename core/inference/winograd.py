"""Small convolutions with fewer multiplications (Winograd's minimal filtering; Lavin and Gray, arXiv 1509.09308)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OUTPUTS = 4
"""Side of the tiles of pixels that are computed at once."""

POINTS = (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2), -math.sqrt(2))
"""Where tile and filter are evaluated as polynomials, besides infinity. With the usual 0, 1, -1, 2, -2 the largest
rounding error is five times larger."""

BAND = 2**24
"""So many values of input tiles are made at once. Smaller bands stay in the cache, but gain nothing by it, and threads
that wait for each other after every step cost much where other processes take the cores."""


class WinogradConv(nn.Module):
    """A convolution of stride 1 with a filter of 2x2 or 3x3: for 3x3, 2.25 multiplications a pixel instead of 9.

    Overlapping tiles of the input and the filters are evaluated at some points along both axes; there convolving is
    multiplying, summed over channels as one matrix product a point; four output pixels a side follow from those. The
    evaluated filters take four times the memory. For float32 maps that lie channels last; no gradient to the weights.
    """

    filters: Tensor
    evaluation: Tensor
    interpolation: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, *, padding: int) -> None:
        super().__init__()
        self.padding, self.taps = padding, weight.shape[-1]
        interpolation, filters, tiles = minimal_filtering(OUTPUTS, self.taps)
        evaluated = torch.einsum("ia,jb,ocab->ijco", filters, filters, weight.detach().double())
        self.bias = bias
        for name, values in (
            ("filters", evaluated.flatten(0, 1)),
            ("evaluation", torch.kron(tiles, tiles)),
            ("interpolation", torch.kron(interpolation, interpolation)),
        ):
            self.register_buffer(name, values.float().contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[B,C,H,W]`` to ``[B,C',H+d,W+d]``, channels last, where ``d`` is ``2 * padding + 1 - taps``."""
        batch, channels, height, width = x.shape
        overlap = self.taps - 1
        height, width = (side + 2 * self.padding - overlap for side in (height, width))
        rows, columns = -(-height // OUTPUTS), -(-width // OUTPUTS)
        ends = (self.padding + count * OUTPUTS - side for count, side in ((columns, width), (rows, height)))
        right, below = ends
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, self.padding, right, self.padding, below))
        made = x.new_empty(batch, rows, OUTPUTS, columns, OUTPUTS, self.filters.shape[2])
        at_once = max(1, BAND // (batch * columns * self.evaluation.shape[0] * channels))
        for first in range(0, rows, at_once):
            last = min(first + at_once, rows)
            band = padded[:, first * OUTPUTS : last * OUTPUTS + overlap]
            tiles = band.unfold(1, OUTPUTS + overlap, OUTPUTS).unfold(2, OUTPUTS + overlap, OUTPUTS)
            evaluated = self.evaluation @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(self.evaluation.shape[1], -1)
            products = torch.bmm(evaluated.unflatten(1, (-1, channels)), self.filters)
            pixels = (self.interpolation @ products.flatten(1)).view(-1, self.filters.shape[2]).add_(self.bias)
            pixels = pixels.view(OUTPUTS, OUTPUTS, batch, last - first, columns, -1)
            made[:, first:last] = pixels.permute(2, 3, 0, 4, 1, 5)
        return made.flatten(3, 4).flatten(1, 2)[:, :height, :width].permute(0, 3, 1, 2)


def minimal_filtering(outputs: int, taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices ``A, G, B``, float64, with ``A ((G g) * (B d))`` the ``outputs`` values of filter ``g`` over tile ``d``.

    Toom-Cook multiplication of polynomials at `POINTS` and infinity, transposed; rows are scaled by powers of two, so
    that what is multiplied is of the size of what was given.
    """
    size = outputs + taps - 1
    points = torch.tensor(POINTS[: size - 1], dtype=torch.float64)

    def powers(count: int) -> Tensor:
        finite = points[:, None] ** torch.arange(count)
        return torch.cat([finite, torch.eye(count, dtype=torch.float64)[-1:]])

    interpolation, filters, tiles = powers(outputs).T, powers(taps), torch.linalg.inv(powers(size)).T
    scales = [2 ** one.abs().sum(1, keepdim=True).log2().round() for one in (filters, tiles)]
    return interpolation * (scales[0] * scales[1]).T, filters / scales[0], tiles / scales[1]
