"""Heads on a timm network other than the one that is always there."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from cyclevar.core.config.base import validate
from cyclevar.core.errors import CheckpointError, ConfigError
from cyclevar.plugins.features.config import FeaturesConfig
from cyclevar.plugins.features.discriminator import FeatureDiscriminator
from cyclevar.plugins.features.timm_net import TimmNet

NET = "test_vit.r160_in1k"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timm") / "vit.pth"
    torch.save(timm.create_model(NET, pretrained=False).state_dict(), path)
    return path


def make(**settings: object) -> FeatureDiscriminator:
    return FeatureDiscriminator(validate(FeaturesConfig, {"width": 8, "augment": [], **settings}))


def test_a_vision_transformer_from_a_file(weights: Path) -> None:
    judge = make(net=NET, weights=str(weights))
    images = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    heads = judge(images)
    assert all(head.shape[:2] == (2, 1) and head.shape[2] == head.shape[3] for head in heads)
    torch.stack([head.mean() for head in heads]).sum().backward()
    assert images.grad is not None
    assert bool(images.grad.any())
    [net] = judge._frozen
    assert isinstance(net, TimmNet)
    assert all(not one.requires_grad and one.grad is None for one in net.parameters())
    assert all(name.startswith("heads.") for name in judge.state_dict())
    assert judge.frozen.startswith(NET)
    own = timm.create_model(NET, pretrained=False, num_classes=0).eval()
    own.load_state_dict(torch.load(weights), strict=False)
    with torch.no_grad():
        expected = own.forward_intermediates(net.prepare(images), intermediates_only=True)[judge.levels[0]]
        torch.testing.assert_close(net.maps(images, judge.levels)[0], expected)


def test_bad_input(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("CYCLEVAR_MODELS", raising=False)
    with pytest.raises(CheckpointError, match=r"model\.safetensors of huggingface\.co/timm/vit_base_patch8_224\.dino"):
        make(net="vit_base_patch8_224.dino")
    with pytest.raises(ConfigError, match="no network named"):
        make(net="no_such_net")
    with pytest.raises(CheckpointError, match="does not fit"):
        make(net="test_resnet.r160_in1k", weights=str(weights))
    with pytest.raises(ConfigError, match="levels 0 to 6"):
        make(levels=[7])
    with pytest.raises(ConfigError, match="brings its own"):
        make(weights="file")
