"""The nets that judge: found where they lie, refused where they do not fit, and reading what the papers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.evaluation import networks as nets
from cyclevar.core.evaluation.metrics import self_similarity_distance
from cyclevar.core.evaluation.networks import INCEPTION_FILES, open_dino, open_features, open_judges

SMALL = "vit_tiny_patch16_224"


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No published weights on this disk, and a small transformer in the place of DINO's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(nets, "locate", lambda file: None)
    monkeypatch.setattr(nets, "DINO_MODEL", SMALL)
    return tmp_path


@pytest.fixture
def dino_file(tmp_path: Path) -> Path:
    """Random weights of the small transformer under timm's names, which are the published file's."""
    torch.manual_seed(0)
    path = tmp_path / "dino.pth"
    torch.save(timm.create_model(SMALL, pretrained=False, num_classes=0).state_dict(), path)
    return path


def test_dino_gives_the_keys_of_the_last_block(dino_file: Path) -> None:
    net = open_dino(dino_file)
    assert net is not None
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    seen: list[Tensor] = []
    attention = net.trunk.blocks[-1].attn
    hook = attention.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    with torch.no_grad():
        keys = net(images)
    hook.remove()
    width = seen[0].shape[-1]
    expected = F.linear(seen[0], attention.qkv.weight[width : 2 * width], attention.qkv.bias[width : 2 * width])
    assert keys.shape == (2, width, 1, 1 + (224 // 16) ** 2)
    torch.testing.assert_close(keys[:, :, 0].transpose(1, 2), expected)
    assert self_similarity_distance(keys, keys).tolist() == [0, 0]
    assert self_similarity_distance(keys[:1], keys[1:]).item() > 0


def test_dino_is_found_in_the_torch_hub_cache(dino_file: Path, nothing_here: Path) -> None:
    assert open_dino(needed=False) is None
    place = nothing_here / "torch" / "hub" / "checkpoints" / nets.DINO_TORCH_FILE
    place.parent.mkdir(parents=True)
    dino_file.rename(place)
    assert open_dino(needed=False) is not None


def test_a_missing_dino_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"dino_vitbase8_pretrain\.pth from https.*--dino-weights"):
        open_dino()
    with pytest.raises(CheckpointError, match="elsewhere"):
        open_dino(Path("elsewhere.pth"), needed=False)


def test_a_dino_that_does_not_fit_is_refused(dino_file: Path) -> None:
    state: dict[str, Any] = torch.load(dino_file, weights_only=True)
    del state["norm.weight"]
    torch.save(state, dino_file)
    with pytest.raises(CheckpointError, match=r"norm\.weight"):
        open_dino(dino_file)


def test_a_missing_inception_is_named() -> None:
    with pytest.raises(CheckpointError, match=rf"{INCEPTION_FILES[0]} from https.*--features efficientnet_lite0"):
        open_features("inception")
    assert open_features("auto").name == "efficientnet_lite0"


def test_a_damaged_inception_is_refused(nothing_here: Path) -> None:
    pytest.importorskip("torch_fidelity", reason="no torch-fidelity: pip install 'cyclevar[inception]'")
    place = nothing_here / "inception.pth"
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, place)
    with pytest.raises(CheckpointError, match="does not fit Inception"):
        open_features("inception", place)
    place.write_bytes(place.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"inception\.pth"):
        open_features("inception", place)


def test_wrong_names() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'inception'"):
        open_features("incepton")
    with pytest.raises(ConfigError, match="--features inception"):
        open_features("efficientnet_lite0", Path("weights.pth"))


def test_only_what_is_needed_is_opened() -> None:
    judges = open_judges({"kid"})
    assert set(judges.nets()) == {"features"}
    judges = open_judges({"kid", "structure_distance", "dino_structure"})
    assert set(judges.nets()) == {"features", "structure"}
