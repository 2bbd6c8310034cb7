"""Metrics against hand-worked values, closed forms and the published implementations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from cyclevar.core.errors import ConfigError, DataError
from cyclevar.core.evaluation.metrics import (
    Estimate,
    copy_ratio,
    cosine_distance,
    fid,
    kid,
    mean_estimate,
    paired_feature_distance,
    retrieval_at_1,
    self_similarity_distance,
    structure_distance,
)
from cyclevar.core.networks.feature_net import FeatureNet


def gaussian(count: int, width: int, *, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


class TestKid:
    def test_by_hand(self) -> None:
        """One feature: k(x,y) = (xy+1)^3. Within {0,1} 1, within {0,2} 1, across (1 + 1 + 1 + 27) / 4."""
        found = kid(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]]))
        assert found.value == pytest.approx(1000 * (1 + 1 - 2 * 30 / 4))

    def test_by_hand_corresponding(self) -> None:
        """As above, but across only (0,2) and (1,0) count, which are 1 and 1."""
        found = kid(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]]), corresponding=True)
        assert found.value == pytest.approx(0)

    def test_equals_the_published_formula(self) -> None:
        x, y = gaussian(40, 8, seed=0), gaussian(40, 8, seed=1, shift=0.3)
        assert kid(x, y).value == pytest.approx(1000 * poly_mmd(x, y).item())

    def test_does_not_depend_on_the_side_or_the_order(self) -> None:
        x, y = gaussian(30, 8, seed=0), gaussian(50, 8, seed=1, shift=0.3)
        assert kid(x, y).value == pytest.approx(kid(y.flip(0), x).value)

    def test_interval_of_one_distribution_holds_zero(self) -> None:
        inside = 0
        for seed in range(20):
            found = kid(gaussian(60, 16, seed=seed), gaussian(90, 16, seed=100 + seed))
            assert found.low is not None
            assert found.high is not None
            inside += found.low <= 0 <= found.high
        assert inside >= 18

    def test_interval_of_two_distributions_does_not(self) -> None:
        x, y = gaussian(100, 16, seed=0), gaussian(100, 16, seed=1, shift=0.5)
        found = kid(x, y)
        assert found.low is not None
        assert found.high is not None
        assert 0 < found.low < found.value < found.high

    def test_a_copy_scores_zero_only_as_corresponding(self) -> None:
        """The published estimate of a set against itself is negative: it takes the copies for independent pictures."""
        x = gaussian(30, 16, seed=0)
        assert kid(x, x, corresponding=True).value == pytest.approx(0, abs=1e-9)
        assert kid(x, x).value < 0

    def test_subsets_agree_with_the_whole(self) -> None:
        x, y = gaussian(200, 8, seed=0), gaussian(200, 8, seed=1, shift=0.4)
        whole, subsets = kid(x, y), kid(x, y, subset_size=50)
        assert subsets.low is not None
        assert subsets.high is not None
        assert subsets.low < whole.value < subsets.high
        assert subsets == kid(x, y, subset_size=50)
        assert subsets != kid(x, y, subset_size=50, seed=1)

    def test_too_few_pictures(self) -> None:
        with pytest.raises(DataError, match=r"1 pictures.*2 or more"):
            kid(torch.zeros(1, 4), torch.zeros(5, 4))
        with pytest.raises(DataError, match=r"5 pictures.*6 or more"):
            kid(torch.zeros(9, 4), torch.zeros(5, 4), subset_size=6)

    def test_corresponding_needs_equal_counts(self) -> None:
        with pytest.raises(ConfigError):
            kid(torch.zeros(4, 4), torch.zeros(5, 4), corresponding=True)


class TestFid:
    def test_closed_form_of_known_gaussians(self) -> None:
        """Diagonal covariances: |m|^2 plus the squared differences of the standard deviations."""

        def whitened(count: int, seed: int) -> Tensor:
            """A sample whose mean is exactly 0 and whose covariance is exactly the identity."""
            x = gaussian(count, 3, seed=seed)
            centred = x - x.mean(0)
            root = torch.linalg.cholesky(centred.T @ centred / (count - 1))
            white: Tensor = torch.linalg.solve_triangular(root, centred.T, upper=False)
            return white.T

        x = whitened(50, 0) * torch.tensor([1.0, 2.0, 3.0]) + torch.tensor([1.0, 0.0, -2.0])
        y = whitened(80, 1) * torch.tensor([2.0, 2.0, 0.5])
        found = fid(x, y)
        assert found.value == pytest.approx(1 + 4 + 1 + 0 + 6.25)
        assert not found.rank_deficient

    def test_equals_the_published_formula(self) -> None:
        mix = gaussian(6, 6, seed=2)
        x, y = gaussian(40, 6, seed=0) @ mix, gaussian(30, 6, seed=1, shift=0.5)
        expected = _compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
        assert fid(x, y).value == pytest.approx(expected.item())

    def test_rank_deficient_sets(self) -> None:
        """Three pictures span two dimensions of eight; the formula still holds, and the flag says so."""
        x, y = gaussian(3, 8, seed=0), gaussian(20, 8, seed=1)
        found = fid(x, y)
        assert found.rank_deficient
        expected = _compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())
        assert found.value == pytest.approx(expected.item(), rel=1e-5)
        assert fid(x, x).value == pytest.approx(0, abs=1e-9)

    def test_too_few_pictures(self) -> None:
        with pytest.raises(DataError, match="2 or more"):
            fid(torch.zeros(1, 4), torch.zeros(5, 4))


class TestStructureDistance:
    def test_by_hand(self) -> None:
        """Two places: alike (1) or orthogonal (0). Two of four entries differ by 1, times 100."""
        alike = torch.tensor([[1.0, 2.0], [0.0, 0.0]]).view(1, 2, 1, 2)
        different = torch.tensor([[1.0, 0.0], [0.0, 4.0]]).view(1, 2, 1, 2)
        torch.testing.assert_close(self_similarity_distance(alike, different), torch.tensor([50.0]))
        torch.testing.assert_close(self_similarity_distance(alike, 3 * alike), torch.tensor([0.0]))

    def test_is_zero_for_the_same_picture(self, net: FeatureNet, shapes: Tensor) -> None:
        assert structure_distance(net, shapes[:3], shapes[:3]).tolist() == [0, 0, 0]

    def test_colour_counts_less_than_shape(self, net: FeatureNet, shapes: Tensor) -> None:
        """Another colour in the same place against the same colour in another place."""
        pictures = shapes[:12]
        recoloured = pictures.roll(1, dims=1)
        moved = pictures.roll(8, dims=3)
        change_of_colour, change_of_shape = (structure_distance(net, pictures, other) for other in (recoloured, moved))
        assert change_of_colour.mean() < 0.5 * change_of_shape.mean()


class TestPairs:
    def test_cosine_distance_by_hand(self) -> None:
        x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
        y = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        torch.testing.assert_close(cosine_distance(x, y), torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
        assert paired_feature_distance(x, y).value == pytest.approx(1)

    def test_retrieval_of_the_identity_and_of_a_permutation(self) -> None:
        x = gaussian(12, 16, seed=0)
        assert retrieval_at_1(2 * x, x) == Estimate(1, 1, 1)
        order = torch.arange(12)
        order[1:] = order[1:].roll(1)
        assert retrieval_at_1(x[order], x).value == pytest.approx(1 / 12)

    def test_copy_ratio(self) -> None:
        """Sources point east, targets north, outputs to the north-east or nowhere new."""
        sources, targets = torch.tensor([[1.0, 0.0]] * 3), torch.tensor([[0.0, 2.0]] * 3)
        half_way = sources + targets / 2
        for paired in (True, False):
            assert copy_ratio(sources, sources, targets, paired=paired) == pytest.approx(0)
            assert copy_ratio(targets, sources, targets, paired=paired) == pytest.approx(1)
            assert copy_ratio(half_way, sources, targets, paired=paired) == pytest.approx(1 - 0.5**0.5)

    def test_unpaired_copy_ratio_is_over_all_pairs(self) -> None:
        sources, targets, outputs = (gaussian(count, 4, seed=count) for count in (5, 7, 6))
        every = torch.stack([cosine_distance(sources, target.expand(5, -1)) for target in targets]).mean()
        found = copy_ratio(outputs[:5], sources, targets, paired=False)
        assert found == pytest.approx((cosine_distance(outputs[:5], sources).mean() / every).item())


class TestMeanEstimate:
    def test_covers_the_mean_as_the_normal_interval_does(self) -> None:
        values = gaussian(400, 1, seed=0)[:, 0]
        found = mean_estimate(values)
        assert found.low is not None
        assert found.high is not None
        half = 1.96 * values.std().item() / 20
        assert found.low == pytest.approx(found.value - half, abs=0.2 * half)
        assert found.high == pytest.approx(found.value + half, abs=0.2 * half)

    def test_follows_the_seed_alone(self) -> None:
        values = gaussian(30, 1, seed=0)[:, 0]
        assert mean_estimate(values, seed=3) == mean_estimate(values, seed=3)
        assert mean_estimate(values, seed=3) != mean_estimate(values, seed=4)
