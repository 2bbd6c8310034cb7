"""The run folder: what may begin or go on there, and that what was saved is never lost."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from cyclevar.core.config.loop import LoopConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.errors import CheckpointError, ConfigError, UnknownNameError
from cyclevar.core.report.run_files import read_lines
from cyclevar.core.training.run_folder import Best, RunFolder
from cyclevar.core.training.state import pack_state, unpack_state
from cyclevar.core.weights.checkpoints import load_tensors, save_tensors

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
        unpack_state({"net": nn.Linear(3, 5)}, pack_state({"net": nn.Linear(3, 4)}), what="it")
    with pytest.raises(
        CheckpointError, match=r"in its part 'optimizer' .the run has no such part, but the state holds"
    ):
        unpack_state({"net": parts["net"]}, pack_state(parts), what="it")


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


@pytest.mark.parametrize(
    "digest",
    ["1e257802ef03011e", "12345e6789012345", "1234567890123456", "0123456701234567", "0x12", "true", "~", "1_0"],
)
def test_a_digest_is_a_text_whatever_it_looks_like(folder: RunFolder, digest: str) -> None:
    facts = {"data": f"emoji {digest}", "tokenizer": digest}
    folder.begin(TrainConfig(weights=digest), facts)
    assert folder.check(TrainConfig(weights=digest), facts, resume=True) == {}
    with pytest.raises(ConfigError, match=f"tokenizer was '{digest}', is '4567'"):
        folder.check(TrainConfig(weights=digest), facts | {"tokenizer": "4567"}, resume=True)
    folder.facts.write_text(f"data: emoji {digest}\ntokenizer: {digest}\n")  # as written without quotes
    assert folder.check(TrainConfig(weights=digest), facts, resume=True) == {}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_pipes_in_a_run_folder_are_refused_and_not_read(folder: RunFolder) -> None:
    for path, message in ((folder.facts, "facts.yaml is not a file"), (folder.config, "exists and is not a run")):
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(ConfigError, match=message):
            folder.check(TrainConfig(), FACTS, resume=True)


def test_a_change_is_accepted_by_name_and_noted(folder: RunFolder) -> None:
    loop = LoopConfig(steps=7, validate_every=200, sample_every=200, save_every=100)
    changed, facts = TrainConfig(seed=3, loop=loop), FACTS | {"data": "emoji 89ab"}
    with pytest.raises(ConfigError, match=r"seed was 0, is 3; .*accept the change by --allow-change seed\.$"):
        folder.check(changed, facts, resume=True, allowed=["loop.steps", "data"])
    with pytest.raises(ConfigError, match=r"circumstances differ .*, or accept the change by --allow-change data\.$"):
        folder.check(changed, facts, resume=True, allowed=["loop", "seed"])
    found = folder.check(changed, facts, resume=True, allowed=["loop", "seed", "data"])
    assert found == {"loop.steps": (3000, 7), "seed": (0, 3), "facts.data": ("emoji 0123", "emoji 89ab")}
    folder.begin(changed, facts, changes=found)
    starts = [json.loads(line) for line in folder.starts.read_text().splitlines()]
    assert "changed" not in starts[0]
    assert starts[1]["changed"] == {key: list(both) for key, both in found.items()}
    assert folder.check(changed, facts, resume=True) == {}


def test_what_may_change_must_exist(folder: RunFolder) -> None:
    for name in ("data", "data.flip", "loop", "perceptual_distance", "model"):
        folder.check(TrainConfig(), FACTS, resume=True, allowed=[name])
    with pytest.raises(UnknownNameError, match=r"no setting or fact named 'sed'; .*did you mean 'seed'\?"):
        folder.check(TrainConfig(), FACTS, resume=True, allowed=["sed"])


def test_what_a_killed_process_began_to_write_is_no_run(folder: RunFolder, tmp_path: Path) -> None:
    new = RunFolder(tmp_path / "new")
    new.path.mkdir()
    (new.path / ".config.yaml.partial").write_text("se")
    new.check(TrainConfig(), FACTS, resume=False)
    new.begin(TrainConfig(), FACTS)
    assert not (new.path / ".config.yaml.partial").exists()
    (folder.checkpoints / ".step-00000005.safetensors.partial").write_text("half")
    folder.begin(TrainConfig(), FACTS)
    assert list(folder.checkpoints.iterdir()) == []


def test_temporary_files_of_dead_writers_are_removed(folder: RunFolder) -> None:
    """Of the safetensors writer too. What another command may be writing just now stays while it is young."""
    failure = folder.failures / "step-00000003"
    failure.mkdir(parents=True)
    dead = [
        folder.checkpoints / ".tmpYcOsZG",
        folder.checkpoints / ".best.safetensors.partial",
        folder.path / ".model.safetensors.partial",
        folder.path / ".tmp4fQw1x",
        folder.samples / ".step-00000005.png.7.partial",
        failure / ".batch.safetensors.partial",
    ]
    report = folder.path / ".report.html.partial"
    kept = [folder.path / ".hidden", folder.path / "notes.partial", folder.path / ".tmp.d"]
    kept[-1].mkdir()
    for path in (*dead, report, *kept[:-1]):
        path.write_text("half")
    folder.begin(TrainConfig(), FACTS)
    assert [path for path in dead if path.exists()] == []
    assert all(path.exists() for path in (report, *kept))
    os.utime(report, (time.time() - 3600,) * 2)
    folder.begin(TrainConfig(), FACTS)
    assert not report.exists()


def test_a_half_written_start_spoils_no_other(folder: RunFolder) -> None:
    with folder.starts.open("a") as file:
        file.write('{"step": 0, "ti')  # a power cut
    folder.begin(TrainConfig(), FACTS)
    assert len(read_lines(folder.starts)[0]) == 2


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


def rewrite(folder: RunFolder, change: Callable[[dict[str, Tensor], dict[str, Any]], object]) -> Path:
    """Change what the newest checkpoint holds, as somebody does who makes it a whole file again."""
    path = whole(folder)[-1]
    tensors, metadata = load_tensors(path)
    change(tensors, metadata)
    save_tensors(path, tensors, metadata)
    folder.manifest.path.unlink()
    return path


FIRST = "optimizer/0/exp_avg"
WRONG_CONTENT: dict[str, tuple[Callable[[dict[str, Tensor], dict[str, Any]], object], str]] = {
    "all moments": (
        lambda t, m: [t.pop(name) for name in list(t) if name.startswith("optimizer/")],
        "the optimizer moment optimizer/0/exp_avg is missing",
    ),
    "one moment": (lambda t, m: t.pop("optimizer/2/step"), "the optimizer moment optimizer/2/step is missing"),
    "which moments": (lambda t, m: m.pop("moments"), "it does not say which optimizer moments it holds"),
    "no random state": (lambda t, m: t.pop("random/cpu"), "the random state random/cpu is missing"),
    "short random state": (
        lambda t, m: t.update({"random/cpu": t["random/cpu"][:100].clone()}),
        "the random state random/cpu is uint8 [100]; expected uint8 [5056]",
    ),
    "invented random state": (
        lambda t, m: t.update({"random/cpu": torch.full_like(t["random/cpu"], 255)}),
        "the random state random/cpu is not one",
    ),
    "a negative step": (lambda t, m: m.update(step=-3), "its step is -3; expected a whole number"),
    "an infinite step": (lambda t, m: m.update(step=math.inf), "its step is inf; expected a whole number"),
    "a huge step": (lambda t, m: m.update(step=10**30), "its step is 1000000"),
    "a step in words": (lambda t, m: m.update(step="10"), "its step is '10'; expected a whole number"),
    "no step": (lambda t, m: m.pop("step"), "its step is missing"),
    "another step": (lambda t, m: m.update(step=9), "its step is 9; expected 10, as in its name"),
    "what is due": (lambda t, m: m.update(due=["dance"]), "what is due after it is ['dance']"),
    "sums": (lambda t, m: m.update(meter={"loss": [1.0, 0]}), "its sums of metrics are {'loss': [1.0, 0]}"),
    "NaN": (lambda t, m: t["net/0.weight"].fill_(math.nan), "net/0.weight is not finite"),
}


@pytest.mark.parametrize("name", WRONG_CONTENT)
def test_a_state_with_wrong_content_gives_way_to_the_one_before(
    folder: RunFolder, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Also if no manifest gives it away, and the reason is named."""
    before = make_parts(3)
    folder.save(5, before, keep=2)
    folder.save(10, make_parts(4), keep=2)
    change, reason = WRONG_CONTENT[name]
    path = rewrite(folder, change)
    parts = make_parts(0)
    assert folder.restore(parts) == 5
    assert f"{path} is damaged; going on with the checkpoint before it ({reason}" in caplog.text
    expected = states(before)
    assert all(torch.equal(value, expected[key]) for key, value in states(parts).items() if key != "random/cpu")


MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "moments of another size": (
        lambda t: t.update({FIRST: torch.zeros(4, 300)}),
        r"'optimizer' \(0/exp_avg is float32 \[4, 300\], expected float32 \[4, 3\]\)",
    ),
    "moments of another type": (
        lambda t: t.update({FIRST: t[FIRST].half()}),
        r"'optimizer' \(0/exp_avg is float16 \[4, 3\], expected float32",
    ),
    "moments of an unknown parameter": (
        lambda t: t.update({"optimizer/70/exp_avg": torch.zeros(3)}),
        r"'optimizer' \(70/exp_avg is unknown, there are 4 parameters\)",
    ),
    "unknown moments": (lambda t: t.update({"optimizer/0/x": torch.zeros(3)}), r"'optimizer' \(0/x is unknown\)"),
    "a step of moments": (
        lambda t: t.update({"optimizer/0/step": torch.tensor([1.0, 2.0])}),
        r"'optimizer' \(0/step is float32 \[2\], expected one number of updates\)",
    ),
    "a missing weight": (lambda t: t.pop("net/0.bias"), r"'net' \(0.bias is missing\)"),
    "an unknown weight": (lambda t: t.update({"net/9.bias": torch.zeros(3)}), r"'net' \(9.bias is unknown\)"),
    "a weight of another type": (
        lambda t: t.update({"net/0.bias": torch.zeros(4, dtype=torch.int64)}),
        r"'net' \(0.bias is int64 \[4\], expected float32 \[4\]\)",
    ),
    "a part of its own": (lambda t: t.update({"more/0": torch.zeros(3)}), r"'more' \(the run has no such part"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_loaded(folder: RunFolder, name: str) -> None:
    folder.save(5, make_parts(5), keep=2)
    change, reason = MISFITS[name]
    rewrite(folder, lambda tensors, metadata: change(tensors))
    parts = make_parts(0)
    before = states(parts)
    with pytest.raises(CheckpointError, match=r"step-00000005.safetensors does not fit this run in its part " + reason):
        folder.restore(parts)
    after = states(parts)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_checkpoint_that_the_manifest_does_not_list_is_told(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.save(5, make_parts(5), keep=2)
    path = whole(folder)[0]
    assert folder.restore(make_parts(0)) == 5
    assert "manifest.json" not in caplog.text
    folder.manifest.forget(path)
    assert folder.restore(make_parts(0)) == 5
    assert f"{path} is not in manifest.json, so its size and hash are not compared" in caplog.text
    folder.manifest.path.unlink()
    assert folder.restore(make_parts(0)) == 5
    assert f"{path} is not in manifest.json, which is missing, so its size" in caplog.text


def test_the_best_state_is_rewound_with_the_run(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    folder.save_best(4, 0.5, make_parts(4))
    folder.save(5, make_parts(5), keep=2)
    folder.save_best(8, 0.4, make_parts(8))
    folder.save(10, make_parts(10), keep=2)
    folder.save_best(12, 0.3, make_parts(12))
    folder.save_best(14, 0.2, make_parts(14))
    assert sorted(path.name for path in folder.checkpoints.glob("best*")) == [
        *(f"best-{step:08d}.safetensors" for step in (4, 8, 12)),
        "best.safetensors",
    ]
    assert folder.best() == Best(14, 0.2)
    folder.rewind(10)
    assert folder.best() == Best(8, 0.4)
    parts = make_parts(0)
    folder.restore_best(parts)
    assert all(
        torch.equal(value, states(make_parts(8))[name]) for name, value in states(parts).items() if "net" in name
    )
    folder.rewind(5)
    assert folder.best() == Best(4, 0.5)
    folder.rewind(3)
    assert folder.best() is None
    assert list(folder.checkpoints.glob("best*")) == []
    assert "not in manifest.json" not in caplog.text


def test_best_states_that_no_checkpoint_goes_back_to_are_removed(folder: RunFolder) -> None:
    for step in (2, 4, 6, 8):
        folder.save_best(step, 1 / step, make_parts(step))
        folder.save(step, make_parts(step), keep=2)
    assert [path.name for path in sorted(folder.checkpoints.glob("best-*"))] == ["best-00000006.safetensors"]
    folder.save(10, make_parts(10), keep=2)
    assert list(folder.checkpoints.glob("best-*")) == []
    assert folder.best() == Best(8, 1 / 8)


def whole(folder: RunFolder) -> list[Path]:
    """The checkpoints, noted in the manifest."""
    folder.manifest.finish()
    return folder.saved()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_a_truncated_state_gives_way_to_the_one_before(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    for step in (5, 10):
        folder.save(step, make_parts(step), keep=2)
    newest = whole(folder)[-1]
    truncate(newest)
    with caplog.at_level(logging.WARNING):
        assert folder.restore(make_parts(0)) == 5
    assert f"{newest} is damaged; going on with the checkpoint before it" in caplog.text
    assert [path.name for path in folder.checkpoints.iterdir() if "10" in path.name] == ["step-00000010.damaged"]


def flip(path: Path) -> None:
    """One bit of the last tensor, which is a whole file to all who do not compare hashes."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_an_altered_state_gives_way_to_the_one_before(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    for step in (5, 10):
        folder.save(step, make_parts(step), keep=2)
    flip(whole(folder)[-1])
    with caplog.at_level(logging.WARNING):
        assert folder.restore(make_parts(0)) == 5
    assert "is damaged; going on with the checkpoint before it (its SHA-256 begins with " in caplog.text


def test_an_altered_best_state_is_put_aside(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    folder.save(5, make_parts(5), keep=2)
    folder.save_best(5, 0.25, make_parts(5))
    whole(folder)
    flip(folder.best_state)
    with pytest.raises(CheckpointError, match=r"best.safetensors is damaged: its SHA-256 .*; resume the run"):
        folder.restore_best(make_parts(0))
    assert folder.restore(make_parts(0)) == 5
    assert "best.safetensors is damaged; going on without this best state" in caplog.text
    assert folder.best() is None


def test_the_manifest_tells_what_is_there(folder: RunFolder) -> None:
    for step in (5, 10, 15):
        folder.save(step, make_parts(step), keep=2)
    folder.save_best(10, 0.5, make_parts(10))
    folder.manifest.finish()
    noted = json.loads(folder.manifest.path.read_text())["files"]
    states = [path for path in folder.checkpoints.iterdir() if path != folder.manifest.path]
    assert noted == {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in states
    }
    assert len(states) == 3


def test_a_process_that_ends_before_it_notes_a_state_condemns_none(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (5, 10):
        folder.save(step, make_parts(step), keep=2)
        folder.save_best(step, 1 / step, make_parts(step))
    monkeypatch.setattr(folder.manifest, "add", lambda path: None)
    folder.save(10, make_parts(11), keep=2)
    folder.save_best(11, 0.01, make_parts(11))
    parts = make_parts(0)
    assert folder.restore(parts) == 10
    folder.restore_best(parts)
    assert folder.best() == Best(11, 0.01)


def test_a_state_that_cannot_be_noted_is_a_warning(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    folder.manifest.path.mkdir()
    folder.save(5, make_parts(5), keep=2)
    folder.manifest.finish()
    assert "step-00000005.safetensors is not noted in manifest.json" in caplog.text
    assert folder.restore(make_parts(0)) == 5


NOTED = '{"files": {"step-00000005.safetensors": {"bytes": 3, "sha256": "0"}}, "sha256": "1"}'


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "[" * 100000, '{"files": 3}', NOTED])
def test_without_a_manifest_a_state_is_what_it_holds(folder: RunFolder, content: str) -> None:
    folder.save(5, make_parts(5), keep=2)
    folder.manifest.finish()
    folder.manifest.path.write_text(content)
    assert folder.restore(make_parts(0)) == 5
    folder.manifest.path.unlink()
    assert folder.restore(make_parts(0)) == 5
    folder.save(6, make_parts(6), keep=2)
    folder.manifest.finish()
    assert list(json.loads(folder.manifest.path.read_text())["files"]) == ["step-00000006.safetensors"]


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "step-00000009.safetensors"])
def test_names_in_the_manifest_are_no_paths(folder: RunFolder, name: str) -> None:
    outside = folder.path / "x.safetensors"
    outside.write_text("precious")
    folder.save(5, make_parts(5), keep=1)
    (folder.checkpoints / "step-00000009.safetensors").symlink_to(folder.path / "nowhere")
    folder.manifest.finish()
    files = json.loads(folder.manifest.path.read_text())["files"] | {name: {"bytes": 8, "sha256": "0"}}
    own = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    folder.manifest.path.write_text(json.dumps({"files": files, "sha256": own}))
    assert folder.restore(make_parts(0)) == 5
    folder.save(6, make_parts(6), keep=1)
    assert outside.read_text() == "precious"
    folder.manifest.finish()
    assert list(json.loads(folder.manifest.path.read_text())["files"]) == ["step-00000006.safetensors"]


def test_where_every_state_is_damaged_nothing_begins_anew_by_itself(folder: RunFolder) -> None:
    folder.save(5, make_parts(5), keep=2)
    truncate(whole(folder)[0])
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
    assert [path.read_bytes() for path in folder.checkpoints.iterdir() if path != folder.manifest.path] == [before]
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
