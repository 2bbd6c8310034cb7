"""What an evaluation has seen is kept: an interrupted one goes on, and no trouble with the folder stops it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cyclevar.core.evaluation.feature_cache import FeatureCache


class Net:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def sees(self, picture: int) -> Callable[[], dict[str, Tensor]]:
        def compute() -> dict[str, Tensor]:
            self.asked.append(picture)
            return {"features": torch.full((2,), float(picture))}

        return compute


def test_an_interrupted_evaluation_goes_on(tmp_path: Path) -> None:
    def interrupted() -> dict[str, Tensor]:
        raise KeyboardInterrupt

    net, first, again = Net(), FeatureCache(tmp_path), FeatureCache(tmp_path)
    for picture in range(2):
        first(f"key{picture}", net.sees(picture))
    with pytest.raises(KeyboardInterrupt):
        first("key2", interrupted)
    found = [again(f"key{picture}", net.sees(picture))["features"][0].item() for picture in range(4)]
    assert found == [0, 1, 2, 3]
    assert net.asked == [0, 1, 2, 3]


def test_a_damaged_file_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net, kept = Net(), FeatureCache(tmp_path)
    kept("key", net.sees(5))
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING):
        assert kept("key", net.sees(5))["features"].tolist() == [5, 5]
    assert net.asked == [5, 5]
    assert [record.message.endswith("it is computed again") for record in caplog.records] == [True]
    kept("key", net.sees(5))
    assert net.asked == [5, 5]


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    net, kept = Net(), FeatureCache(tmp_path / "file" / "features")
    with caplog.at_level(logging.WARNING):
        for picture in range(3):
            assert kept(f"key{picture}", net.sees(picture))["features"][0] == picture
    assert len(caplog.records) == 1
    assert "nothing is kept" in caplog.text
