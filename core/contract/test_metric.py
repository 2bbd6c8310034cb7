"""What every figure of the evaluation promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.contract.fixtures import *  # noqa: F403
from cyclevar.core.contract.fixtures import Settings, build_part
from cyclevar.core.evaluation.results import METRICS
from cyclevar.core.interfaces.criteria import PictureMetric

KIND = "metric"


@pytest.fixture(scope="module")
def metric(name: str, cyclevar_contract_settings: Settings) -> PictureMetric:
    metric = build_part(cyclevar_contract_settings, KIND, name)
    assert isinstance(metric, PictureMetric)
    return metric.eval()


def test_its_name_is_its_own(name: str) -> None:
    assert name not in METRICS, "cyclevar has a figure of that name"


def test_it_says_how_it_is_shown(metric: PictureMetric) -> None:
    assert metric.title.strip()
    assert metric.form.format(1.5)
    assert metric.against in ("source", "target", "pair")
    assert metric.needed >= 1


@torch.no_grad()
def test_features_of_a_batch_do_not_mix(metric: PictureMetric, small_images: Tensor) -> None:
    given = small_images.clone()
    together = metric.features(small_images)
    assert torch.equal(small_images, given)
    assert_close(torch.cat([metric.features(one[None]) for one in small_images]), together, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_it_tells_pictures_apart(metric: PictureMetric, small_images: Tensor) -> None:
    seen, others = metric.features(small_images), metric.features(0.5 * small_images.flip(0) - 0.2)
    with_itself, with_others = metric.compare(seen, seen), metric.compare(seen, others)
    for value in (with_itself, with_others):
        assert value.shape in ((), (3,))
        assert bool(value.isfinite().all())
    assert not torch.allclose(with_itself, with_others)
    if metric.against == "target":
        assert bool(metric.compare(seen, torch.cat([seen, others])).isfinite().all())
