"""What is measured: pure functions on feature tensors. Intervals are 95 % intervals.

Pooled features are float ``[N,D]``, one row per picture. Everything is computed in float64 on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.errors import ConfigError, DataError
from cyclevar.core.networks.feature_net import FeatureNet

STRUCTURE_LEVEL = 4
"""The map in which structure is compared: 112 channels at stride 16, a 14 x 14 grid at input side 224."""

INTERVAL = (0.025, 0.975)
REPLICATES = 1000


@dataclass(frozen=True)
class Estimate:
    """A figure with the interval from ``low`` to ``high`` that sampling leaves open, where one is defined."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class FrechetDistance:
    """``value`` with ``rank_deficient``: true where a covariance was estimated from too few pictures to be full."""

    value: float
    rank_deficient: bool


def kid(
    x: Tensor,
    y: Tensor,
    *,
    subset_size: int | None = None,
    subsets: int = 100,
    corresponding: bool = False,
    seed: int = 0,
) -> Estimate:
    """Kernel distance between two sets of pooled features, times 1000, unbiased: 0 in the mean for equal distributions.

    Binkowski et al., "Demystifying MMD GANs" (arXiv 1801.01401): the squared maximum mean discrepancy of the kernel
    ``(x.y / D + 1) ** 3``. It can be negative.

    By default all pictures count, and the interval is a Bayesian bootstrap over them; near zero it is too wide, which
    errs on the safe side. With ``subset_size`` it is computed as published instead: the mean over ``subsets`` random
    subsets, with the spread of the subsets as interval (which says how much one subset varies, not the mean).

    Args:
        x, y: float ``[N,D]`` and ``[M,D]``.
        corresponding: row i of both comes from one picture (or a true pair), so the sets are not independent; the
            terms ``k(x_i, y_i)`` are left out then, which keeps the estimate unbiased (Gretton et al., "A Kernel
            Two-Sample Test", JMLR 2012, Lemma 6). Only without ``subset_size``.

    Raises:
        DataError: fewer than two pictures, or fewer than ``subset_size``.
    """
    x, y = _float64(x), _float64(y)
    fewest, needed = min(len(x), len(y)), subset_size or 2
    if fewest < needed:
        raise DataError(f"KID was asked for with {fewest} pictures on one side", expected=f"{needed} or more")
    if corresponding and (subset_size is not None or len(x) != len(y)):
        raise ConfigError("corresponding pictures need equally many on both sides, and no subsets")
    generator = torch.Generator().manual_seed(seed)
    if subset_size is not None:
        return _subset_kid(x, y, subset_size, subsets, generator)

    kernels = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    ones = torch.ones(1, len(x), dtype=torch.float64), torch.ones(1, len(y), dtype=torch.float64)
    value = _weighted_mmd(*kernels, *ones, corresponding)
    draws = _bayesian_weights(len(x), generator)
    other_draws = draws if corresponding else _bayesian_weights(len(y), generator)
    return _estimate(1e3 * value.item(), 1e3 * _weighted_mmd(*kernels, draws, other_draws, corresponding))


def _subset_kid(x: Tensor, y: Tensor, size: int, subsets: int, generator: torch.Generator) -> Estimate:
    from torchmetrics.image.kid import poly_mmd  # here, because its import takes seconds

    def subset(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=generator)[:size]]

    values = 1e3 * torch.stack([poly_mmd(subset(x), subset(y)) for _ in range(subsets)])
    return _estimate(values.mean().item(), values)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _weighted_mmd(k_xx: Tensor, k_yy: Tensor, k_xy: Tensor, w_x: Tensor, w_y: Tensor, corresponding: bool) -> Tensor:
    """Squared discrepancies ``[R]`` under R weightings of the pictures, ``w_x [R,N]`` and ``w_y [R,M]``."""

    def mean(kernel: Tensor, left: Tensor, right: Tensor, distinct: bool) -> Tensor:
        total, mass = ((left @ kernel) * right).sum(1), left.sum(1) * right.sum(1)
        if distinct:
            total, mass = total - (left * right) @ kernel.diagonal(), mass - (left * right).sum(1)
        return total / mass

    return mean(k_xx, w_x, w_x, True) + mean(k_yy, w_y, w_y, True) - 2 * mean(k_xy, w_x, w_y, corresponding)


def _bayesian_weights(count: int, generator: torch.Generator) -> Tensor:
    """Random weights ``[R,count]`` of mean 1, exponentially distributed (Rubin, "The Bayesian Bootstrap", 1981).

    Unlike drawing with replacement, they make no duplicates, whose kernel values would bias the discrepancy.
    """
    return torch.empty(REPLICATES, count, dtype=torch.float64).exponential_(generator=generator)


def fid(x: Tensor, y: Tensor) -> FrechetDistance:
    """Frechet distance between Gaussians fitted to pooled features ``[N,D]`` and ``[M,D]``.

    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (arXiv 1706.08500):
    ``|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))``. With ``C = A^T A`` the last trace is the nuclear norm of
    ``A_x A_y^T``, which is exact for rank-deficient covariances too and costs a fraction of a matrix root.

    Raises:
        DataError: fewer than two pictures.
    """
    x, y = _float64(x), _float64(y)
    if min(len(x), len(y)) < 2:
        raise DataError("FID was asked for with fewer than 2 pictures on one side", expected="2 or more")

    def root(features: Tensor) -> Tensor:
        centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
        triangle: Tensor = torch.linalg.qr(centred, mode="r").R
        return triangle

    root_x, root_y = root(x), root(y)
    shift = (x.mean(0) - y.mean(0)).square().sum()
    spread = root_x.square().sum() + root_y.square().sum() - 2 * torch.linalg.svdvals(root_x @ root_y.T).sum()
    return FrechetDistance((shift + spread).item(), rank_deficient=min(len(x), len(y)) <= x.shape[1])


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """Cosine distances ``[N]``, 0 to 2, between the rows of ``[N,D]`` and ``[N,D]``."""
    return (1 - F.cosine_similarity(_float64(x), _float64(y), dim=1)).clamp_min(0)


def paired_feature_distance(x: Tensor, y: Tensor, *, seed: int = 0) -> Estimate:
    """Mean cosine distance between pooled features of true pairs, 0 to 2, with a bootstrap over the pairs."""
    return mean_estimate(cosine_distance(x, y), seed=seed)


def retrieval_at_1(outputs: Tensor, targets: Tensor, *, seed: int = 0) -> Estimate:
    """Share of outputs ``[N,D]`` whose nearest of all targets ``[N,D]``, by cosine, is their own, 0 to 1.

    The interval is a bootstrap over the outputs with the targets fixed. Of equally near targets the first counts.
    """
    nearest = (F.normalize(_float64(outputs), dim=1) @ F.normalize(_float64(targets), dim=1).T).argmax(1)
    return mean_estimate((nearest == torch.arange(len(nearest))).double(), seed=seed)


def structure_distance(net: FeatureNet, source: Tensor, output: Tensor) -> Tensor:
    """How much the layout of pictures ``[B,3,H,W]`` in [-1,1] changed: ``[B]``, times 100, 0 for none.

    After Tumanyan et al., "Splicing ViT Features" (arXiv 2201.00424), with the map of ``STRUCTURE_LEVEL`` of
    ``net`` in place of the keys of a vision transformer.
    """
    count = STRUCTURE_LEVEL + 1
    return self_similarity_distance(net.maps(source, count)[-1], net.maps(output, count)[-1])


def self_similarity_distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference, times 100, between the cosine self-similarities of maps ``[B,C,h,w]``: ``[B]``.

    The self-similarity of a map says which places look alike, not what they look like.
    """

    def self_similarity(maps: Tensor) -> Tensor:
        unit = F.normalize(maps.flatten(2), dim=1)
        return unit.transpose(1, 2) @ unit

    return 100 * (self_similarity(x) - self_similarity(y)).square().mean((1, 2))


def copy_ratio(outputs: Tensor, sources: Tensor, targets: Tensor, *, paired: bool) -> float:
    """How far outputs moved away from their sources, as a share of the way to the targets; 0 for a copy.

    Mean cosine distance of pooled features ``[N,D]`` of outputs to those of their sources, divided by that of the
    targets ``[M,D]``: the true ones where ``paired``, else all targets for each source. Sources and targets are round
    trips, so that the blur of the tokenizer does not count as movement.
    """
    if paired:
        way = cosine_distance(targets, sources).mean()
    else:  # the mean over all N x M pairs
        mean_source, mean_target = (F.normalize(_float64(features), dim=1).mean(0) for features in (sources, targets))
        way = 1 - mean_source @ mean_target
    return (cosine_distance(outputs, sources).mean() / way).item()


NEIGHBOURS = 3
"""How many neighbours make a manifold, as the paper of `precision` chose; it takes one picture more."""


def precision(outputs: Tensor, targets: Tensor, *, neighbours: int = NEIGHBOURS, seed: int = 0) -> Estimate:
    """Share of outputs ``[N,D]`` that lie within the manifold of the targets ``[M,D]``: how faithful they are, 0 to 1.

    Kynkaanniemi et al., "Improved Precision and Recall Metric" (arXiv 1904.06991, Eq. 1-2): an output lies within it
    if it is as near to any target as that target's third nearest other target is. With the sides exchanged it is the
    recall: the share of targets that the outputs cover. The interval is a bootstrap over the outputs with the targets
    fixed.

    Raises:
        DataError: no more targets than ``neighbours``, or no outputs.
    """
    outputs, targets = _float64(outputs), _float64(targets)
    if len(targets) <= neighbours or not len(outputs):
        raise DataError(
            f"precision or recall was asked for with {min(len(targets), len(outputs))} pictures on one side",
            expected=f"{neighbours + 1} or more",
        )
    radius = _distances(targets, targets).kthvalue(neighbours + 1).values  # the nearest is the target itself
    return mean_estimate((_distances(outputs, targets) <= radius).any(1), seed=seed)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances ``[N,M]``, without the rounding of a matrix product: 0 from a row to itself."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def colour_shift(x: Tensor, y: Tensor, *, corresponding: bool = False, seed: int = 0) -> Estimate:
    """Distance between the colours of two sets of pictures, in units of CIELAB (2.3 is a just noticeable difference).

    ``sqrt(sum over L*, a*, b* of (m_x - m_y)^2 + (s_x - s_y)^2)`` with means ``m`` and standard deviations ``s`` over
    all pixels of a set: the 2-Wasserstein distance of Gaussians fitted channel by channel. Being a distance it is never
    negative, and somewhat above 0 for two samples of one distribution.

    Args:
        x, y: ``[N,6]`` and ``[M,6]``: `cyclevar.core.evaluation.colour.colour_moments` of the pictures.
        corresponding: row i of both comes from one picture or a true pair; the bootstrap draws them together then.
    """
    x, y = _float64(x), _float64(y)

    def distance(w_x: Tensor, w_y: Tensor) -> Tensor:
        apart = _spread(w_x @ x / w_x.sum(1, True)) - _spread(w_y @ y / w_y.sum(1, True))
        lengths: Tensor = torch.linalg.vector_norm(apart, dim=1)
        return lengths

    generator = torch.Generator().manual_seed(seed)
    ones = torch.ones(1, len(x), dtype=torch.float64), torch.ones(1, len(y), dtype=torch.float64)
    draws = _bayesian_weights(len(x), generator)
    other_draws = draws if corresponding else _bayesian_weights(len(y), generator)
    return _estimate(distance(*ones).item(), distance(draws, other_draws))


def _spread(moments: Tensor) -> Tensor:
    """First and second moments ``[R,6]`` to means and standard deviations ``[R,6]``."""
    mean, square = moments.chunk(2, dim=1)
    return torch.cat([mean, (square - mean.square()).clamp_min(0).sqrt()], dim=1)


def mean_estimate(values: Tensor, *, seed: int = 0) -> Estimate:
    """Mean of ``values [N]`` with a percentile bootstrap interval over its entries."""
    values = _float64(values)
    drawn = torch.randint(len(values), (REPLICATES, len(values)), generator=torch.Generator().manual_seed(seed))
    return _estimate(values.mean().item(), values[drawn].mean(1))


def _estimate(value: float, replicates: Tensor) -> Estimate:
    low, high = replicates.quantile(torch.tensor(INTERVAL, dtype=torch.float64)).tolist()
    return Estimate(value, low, high)


def _float64(features: Tensor) -> Tensor:
    return features.detach().to("cpu", torch.float64)
