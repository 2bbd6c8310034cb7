"""The CLIP discriminator, on a tiny tower of random weights loaded by open_clip itself."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from torch import Tensor

from cyclevar.core.config.base import validate
from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.plugins.clip.config import ClipConfig
from cyclevar.plugins.clip.discriminator import ClipDiscriminator
from cyclevar.plugins.clip.tower import ClipTower


def make(small_clip: dict[str, str], **settings: object) -> ClipDiscriminator:
    return ClipDiscriminator(validate(ClipConfig, {**small_clip, "width": 8, "augment": [], **settings}))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_heads(small_clip: dict[str, str], images: Tensor) -> None:
    shapes = [tuple(head.shape) for head in make(small_clip)(images)]
    assert shapes == [(2, 1, 4, 4), (2, 1, 4, 4), (2, 1)]
    assert [tuple(head.shape) for head in make(small_clip, head="mlp")(images)] == [(2, 1)]


def test_the_tower_sees_what_open_clip_sees(small_clip: dict[str, str], images: Tensor) -> None:
    """The same embedding by open_clip's own calls, with its mean and deviation."""
    model = open_clip.create_model(small_clip["model"], pretrained=small_clip["weights"]).eval()
    mean, std = (torch.tensor(model.visual.preprocess_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    assert mean.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    assert std.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_STD)
    [tower] = make(small_clip)._frozen
    assert isinstance(tower, ClipTower)
    with torch.no_grad():
        expected = model.encode_image(((images + 1) / 2 - mean) / std)
        torch.testing.assert_close(tower(images, []).pooled, expected)


def test_gradients_reach_pictures_and_heads_but_never_the_tower(small_clip: dict[str, str]) -> None:
    judge = make(small_clip, augment=["color", "translation", "cutout"])
    images = (torch.rand(2, 3, 20, 20) * 2 - 1).requires_grad_()
    torch.stack([head.mean() for head in judge(images)]).sum().backward()
    assert images.grad is not None
    assert all(bool(picture.any()) for picture in images.grad)
    assert all(parameter.grad is not None for parameter in judge.parameters())
    [tower] = judge._frozen
    assert all(not one.requires_grad and one.grad is None for one in tower.parameters())
    assert all(name.startswith("heads.") for name in judge.state_dict())
    assert judge.frozen.startswith("clip cyclevar-small openai ")


def test_bad_input(small_clip: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("CYCLEVAR_MODELS", raising=False)
    wanted = r"open_clip_model\.safetensors of huggingface\.co/timm.*settings\.weights"
    with pytest.raises(CheckpointError, match=wanted):
        ClipDiscriminator(ClipConfig())
    with pytest.raises(UnknownNameError, match="ViT-B-32"):
        ClipDiscriminator(ClipConfig(model="ViT-B-33"))
    with pytest.raises(UnknownNameError, match="openai"):
        ClipDiscriminator(ClipConfig(pretrained="openia"))
    with pytest.raises(ConfigError, match="blocks 0 to 2"):
        make(small_clip, levels=[3])
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="does not fit CLIP"):
        make(small_clip, weights=str(tmp_path / "other.pt"))
