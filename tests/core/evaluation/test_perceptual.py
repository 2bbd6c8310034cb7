"""Perceptual distances: hand-worked values, gradients, and which one is chosen."""

from __future__ import annotations

from pathlib import Path

import lpips
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.evaluation.perceptual import (
    TRUNK_FILES,
    FeatureNetDistance,
    LpipsDistance,
    PerceptualDistance,
    perceptual_distance,
)
from cyclevar.core.networks.feature_net import FeatureNet

SLICES = {
    "lpips_alex": {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)},
    "lpips_vgg": {
        index: (after, before, 3)
        for index, before, after in zip(
            [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
            [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512],
            [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512],
            strict=True,
        )
    },
}
"""Output channels, input channels and kernel of the convolutions, by their number in torchvision's ``features``."""


def write_trunk(path: Path, name: str) -> Path:
    """A trunk of random weights under the names of torchvision's file."""
    generator = torch.Generator().manual_seed(0)
    state = {"classifier.1.weight": torch.zeros(1)}
    for index, (after, before, kernel) in SLICES[name].items():
        scale = (before * kernel * kernel) ** -0.5
        state[f"features.{index}.weight"] = torch.randn(after, before, kernel, kernel, generator=generator) * scale
        state[f"features.{index}.bias"] = torch.randn(after, generator=generator) * 0.1
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def alex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trunk(tmp_path_factory.mktemp("trunks") / "alex.pth", "lpips_alex")


@pytest.fixture(params=["feature_net", "lpips_alex"])
def distance(request: pytest.FixtureRequest, net: FeatureNet, alex: Path) -> PerceptualDistance:
    return FeatureNetDistance(net) if request.param == "feature_net" else LpipsDistance("lpips_alex", alex)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache, where ``auto`` looks."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_is_zero_for_equal_pictures_and_symmetric(distance: PerceptualDistance, shapes: Tensor) -> None:
    x, y = F.interpolate(shapes[:4], scale_factor=2), F.interpolate(shapes[4:8], scale_factor=2)
    assert torch.equal(distance(x, x), torch.zeros(4))
    assert (distance(x, y) > 0).all()
    torch.testing.assert_close(distance(x, y), distance(y, x))


def test_grows_with_the_disturbance(distance: PerceptualDistance, shapes: Tensor) -> None:
    x = F.interpolate(shapes[:8], scale_factor=2)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    small, large = distance(x, x + 0.05 * noise), distance(x, x + 0.4 * noise)
    assert (small < large).all()


def test_is_differentiable_in_both_and_frozen(distance: PerceptualDistance, shapes: Tensor) -> None:
    x, y = (F.interpolate(part, scale_factor=2).requires_grad_() for part in (shapes[:2], shapes[2:4]))
    distance(x, y).sum().backward()
    for images in (x, y):
        assert images.grad is not None
        assert images.grad.isfinite().all()
        assert images.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    assert not any(module.training for module in distance.train().modules())


def test_gradient_of_equal_flat_pictures_is_finite(distance: PerceptualDistance) -> None:
    """Where all activations are zero, the published LPIPS divides by zero in its gradient."""
    x = torch.ones(1, 3, 64, 64, requires_grad=True)
    distance(x, torch.ones(1, 3, 64, 64)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_feature_net_distance_by_hand(net: FeatureNet) -> None:
    """Two levels of two channels: (1,0) against (0,1) everywhere gives 2, in half of the places 1; the mean is 1.5."""

    class Fixed(FeatureNetDistance):
        def maps(self, images: Tensor) -> list[Tensor]:
            up, right = torch.tensor([[0.0, 3.0]]), torch.tensor([[5.0, 0.0]])
            first = (up if images.mean() > 0 else right).view(1, 2, 1, 1).expand(1, 2, 2, 2)
            second = torch.cat([up.view(1, 2, 1, 1).expand(1, 2, 2, 1), first[..., :1]], dim=3)
            return [first, second]

    one = torch.ones(1, 3, 4, 4)
    torch.testing.assert_close(Fixed(net)(one, -one), torch.tensor([1.5]))


def test_feature_net_distance_is_that_of_the_single_pictures(net: FeatureNet, shapes: Tensor) -> None:
    distance = FeatureNetDistance(net)
    alone = [distance(x[None], y[None]) for x, y in zip(shapes[:3], shapes[3:6], strict=True)]
    torch.testing.assert_close(distance(shapes[:3], shapes[3:6]), torch.cat(alone))


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained':UserWarning")
@pytest.mark.filterwarnings("ignore:Arguments other than a weight enum:UserWarning")
def test_lpips_equals_the_published_code(alex: Path, shapes: Tensor) -> None:
    published = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    stored = torch.load(alex, weights_only=True)
    for key, parameter in published.net.named_parameters():
        parameter.copy_(stored["features." + key.split(".", 1)[1]])
    x, y = (F.interpolate(part, scale_factor=2) for part in (shapes[:2], shapes[2:4]))
    torch.testing.assert_close(LpipsDistance("lpips_alex", alex)(x, y), published(x, y).flatten())


def test_lpips_with_vgg_applies_every_convolution_in_order(tmp_path: Path, shapes: Tensor) -> None:
    trunk = write_trunk(tmp_path / "vgg.pth", "lpips_vgg")
    distance = perceptual_distance("lpips_vgg", trunk_weights=trunk)
    assert isinstance(distance, LpipsDistance)
    stored = torch.load(trunk, weights_only=True)
    x = distance.scaling(shapes[:1])
    for index in SLICES["lpips_vgg"]:
        if index in (5, 10, 17, 24):
            x = F.max_pool2d(x, 2)
        x = F.relu(F.conv2d(x, stored[f"features.{index}.weight"], stored[f"features.{index}.bias"], padding=1))
    torch.testing.assert_close(distance.maps(shapes[:1])[-1], x)
    assert distance(shapes[:2], shapes[2:4]).shape == (2,)


def test_building_lpips_draws_no_random_number(alex: Path) -> None:
    before = torch.get_rng_state()
    LpipsDistance("lpips_alex", alex)
    assert torch.equal(before, torch.get_rng_state())


def test_auto_takes_what_is_there(hub: Path, alex: Path) -> None:
    assert perceptual_distance().name == "efficientnet_lite0"
    hub.mkdir(parents=True)
    (hub / TRUNK_FILES["lpips_alex"]).write_bytes(alex.read_bytes())
    found = perceptual_distance()
    assert found.name == "lpips_alex"
    assert len(found.weights_sha256) == 64
    assert perceptual_distance("efficientnet_lite0").name == "efficientnet_lite0"


def test_a_missing_trunk_is_named(hub: Path) -> None:
    with pytest.raises(CheckpointError, match=r"vgg16-397923af\.pth"):
        perceptual_distance("lpips_vgg")


def test_a_trunk_that_does_not_fit_is_refused(alex: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit"):
        perceptual_distance("lpips_vgg", trunk_weights=alex)
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"no tensors here")
    with pytest.raises(CheckpointError, match="does not fit"):
        perceptual_distance("lpips_alex", trunk_weights=damaged)


def test_a_trunk_without_its_name_is_refused(alex: Path) -> None:
    with pytest.raises(ConfigError, match="lpips_vgg and lpips_alex"):
        perceptual_distance("auto", trunk_weights=alex)


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'lpips_alex'"):
        perceptual_distance("lpips-alex")
