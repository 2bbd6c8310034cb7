"""The run folder: what may begin or go on there, and that what was saved is never lost."""

from __future__ import annotations

import errno
import json
import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from cyclevar.core.config import LoopConfig, TrainConfig
from cyclevar.core.errors import CheckpointError, ConfigError
from cyclevar.core.training.runs import RunFolder, pack_state, unpack_state

FACTS = {"data": "emoji 0123", "tokenizer": "4567"}


def make_parts(seed: int) -> dict[str, nn.Module | torch.optim.Optimizer]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return {"net": net, "optimizer": optimizer}


def states(parts: Any) -> Any:
    return {name: value.clone() for name, value in pack_state(parts).items()}


def test_unpacking_is_the_inverse_of_packing() -> None:
    packed = states(make_parts(0))
    drawn = torch.rand(3)
    other = make_parts(1)
    assert any(not torch.equal(packed[name], value) for name, value in states(other).items())
    unpack_state(other, packed, what="it")
    again = states(other)
    assert again.keys() == packed.keys()
    assert all(torch.equal(again[name], value) and again[name].dtype == value.dtype for name, value in packed.items())
    assert torch.equal(torch.rand(3), drawn)


def test_unpacking_keeps_the_learning_rate_of_the_settings() -> None:
    parts = make_parts(0)
    optimizer = parts["optimizer"]
    assert isinstance(optimizer, torch.optim.Optimizer)
    optimizer.param_groups[0]["lr"] = 0.5
    unpack_state(parts, pack_state(make_parts(1)), what="it")
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_state_of_another_shape_is_refused_by_the_name_of_its_part() -> None:
    parts = make_parts(0)
    with pytest.raises(CheckpointError, match="it does not fit this run in its part 'net'"):
        unpack_state({"net": nn.Linear(3, 5)}, pack_state(parts), what="it")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.begin(TrainConfig(), FACTS)
    return folder


def test_checking_writes_nothing(tmp_path: Path) -> None:
    for path in (tmp_path / "new", tmp_path):
        RunFolder(path).check(TrainConfig(), FACTS, resume=False)
        RunFolder(path).check(TrainConfig(), FACTS, resume=True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_not_overwritten(folder: RunFolder) -> None:
    with pytest.raises(ConfigError, match=r"already holds a run; go on with it by --resume auto"):
        folder.check(TrainConfig(), resume=False)
    folder.check(TrainConfig(), FACTS, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_what_is_not_a_run_is_left_alone(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(ConfigError, match="exists and is not a run"):
            RunFolder(path).check(TrainConfig(), resume=resume)


def test_other_settings_are_refused_by_name(folder: RunFolder) -> None:
    changed = TrainConfig(seed=3, loop=LoopConfig(steps=7, validate_every=200, sample_every=200, save_every=100))
    with pytest.raises(ConfigError, match=r"loop.steps was 3000, is 7, seed was 0, is 3; expected the same"):
        folder.check(changed, resume=True)
    with pytest.raises(ConfigError, match=r"differ from .*run: seed was 0, is 3; expected"):
        folder.check(changed, resume=True, free=frozenset({"loop.steps"}))
    folder.check(changed, resume=True, free=frozenset({"loop.steps", "seed"}))


def test_a_setting_that_came_later_counts_as_its_default(folder: RunFolder) -> None:
    folder.config.write_text("seed: 0\nloop: {steps: 3000}\n")
    folder.check(TrainConfig(), resume=True)


def test_other_facts_are_refused_by_name(folder: RunFolder) -> None:
    with pytest.raises(ConfigError, match=r"circumstances differ .*: data was 'emoji 0123', is 'emoji 89ab'; expected"):
        folder.check(TrainConfig(), FACTS | {"data": "emoji 89ab"}, resume=True)
    folder.facts.unlink()  # as a run of an earlier version
    folder.check(TrainConfig(), FACTS, resume=True)


def test_every_start_is_noted_with_its_machine(folder: RunFolder) -> None:
    folder.save(5, make_parts(5), keep=2)
    folder.begin(TrainConfig(), FACTS, {"device": "cuda"})
    starts = [json.loads(line) for line in folder.starts.read_text().splitlines()]
    assert [(start["step"], start["machine"]) for start in starts] == [(0, {}), (5, {"device": "cuda"})]
    assert all(datetime.fromisoformat(start["time"]).utcoffset() == timedelta(0) for start in starts)


def test_only_the_newest_states_stay(folder: RunFolder) -> None:
    for step in (5, 10, 15, 100000000):
        folder.save(step, make_parts(step), keep=2)
    assert [path.name for path in folder.saved()] == ["step-00000015.safetensors", "step-100000000.safetensors"]
    assert folder.restore(make_parts(0)) == 100000000


def test_restoring_gives_back_what_was_saved(folder: RunFolder) -> None:
    assert folder.restore(make_parts(0)) == 0
    parts = make_parts(7)
    saved = states(parts)
    folder.save(5, parts, keep=2)
    other = make_parts(8)
    assert folder.restore(other) == 5
    assert all(torch.equal(value, saved[name]) for name, value in states(other).items())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_a_truncated_state_gives_way_to_the_one_before(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    for step in (5, 10):
        folder.save(step, make_parts(step), keep=2)
    newest = folder.saved()[-1]
    truncate(newest)
    with caplog.at_level(logging.WARNING):
        assert folder.restore(make_parts(0)) == 5
    assert f"{newest} is damaged; going on with the checkpoint before it" in caplog.text
    assert [path.name for path in folder.checkpoints.iterdir() if "10" in path.name] == ["step-00000010.damaged"]


def test_where_every_state_is_damaged_nothing_begins_anew_by_itself(folder: RunFolder) -> None:
    folder.save(5, make_parts(5), keep=2)
    truncate(folder.saved()[0])
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read; start a new run with --out"):
        folder.restore(make_parts(0))


def test_a_full_disk_leaves_the_previous_state(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.save(5, make_parts(5), keep=1)
    before = folder.saved()[0].read_bytes()

    def write_half(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", write_half)
    for step in (5, 10):
        with pytest.raises(CheckpointError, match=r"could not be saved .*No space left on device.*; free some disk"):
            folder.save(step, make_parts(step), keep=1)
    assert [path.read_bytes() for path in folder.checkpoints.iterdir()] == [before]
    assert folder.restore(make_parts(0)) == 5


def test_the_log_is_rewound(folder: RunFolder) -> None:
    folder.rewind_log(3)
    for step in (1, 2, 3, 4, 5):
        folder.log({"step": step, "loss": 1 / step})
    with folder.metrics.open("a") as file:
        file.write('{"step": 6, "lo')  # a power cut
    folder.rewind_log(3)
    assert [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()] == [1, 2, 3]
    folder.rewind_log(0)
    assert folder.metrics.read_text() == ""
