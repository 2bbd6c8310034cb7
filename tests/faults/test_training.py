"""Whatever happens to a training, it loses nothing that it had saved, and goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cyclevar.core.training.divergence import steps_left_out
from cyclevar.core.training.run_folder import RunFolder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")

Helpers = Any


@pytest.fixture
def interrupted(trainers: Any, config: dict[str, Any], helpers: Helpers, tmp_path: Path) -> Path:
    """A run that ended after its seventh step, with two checkpoints and a best one."""
    out = tmp_path / "interrupted"
    trainers.stop_after(7, out, config)
    assert helpers.newest(out) == 7
    return out


def kill_until(
    trainers: Any, helpers: Helpers, out: Path, config: Mapping[str, Any], kills: int, longest: float, random: Random
) -> dict[str, int]:
    """Kill a training ``kills`` times, each life lasting up to ``longest`` seconds; what was seen, as counts."""
    seen = {"kills": 0, "while saving": 0, "before the first checkpoint": 0, "ended by itself": 0}
    reached = 0
    while seen["kills"] < kills:
        code, notes = trainers.start(out, config).kill_after(random.uniform(0.05, longest))
        if code == 0:
            seen["ended by itself"] += 1
            break
        assert code == -signal.SIGKILL, notes
        seen["kills"] += 1
        seen["while saving"] += any(out.glob("**/.*.partial"))
        now = helpers.newest(out)
        assert now >= reached, "a checkpoint that was whole is gone"
        seen["before the first checkpoint"] += now == 0
        reached = now
    return seen


def test_killed_twice(trainers: Any, config: dict[str, Any], whole: Path, helpers: Helpers, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for step in (2, 5):
        started = trainers.start(out, config)
        started.wait_until(f"{step}/10")
        started.send(signal.SIGKILL)
        found, notes = started.wait()
        assert found == -signal.SIGKILL, notes
        assert step <= helpers.newest(out) + 1 < 11, notes
    code, notes = trainers.run(out, config)
    assert code == 0, notes
    assert helpers.differences(out, whole) == []


@pytest.mark.slow
def test_killed_at_random_points(
    trainers: Any, config: dict[str, Any], helpers: Helpers, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    """Until it was killed forty times; whenever it comes to an end before, it begins anew in another folder."""
    settings = helpers.longer(config, steps=60)
    code, notes = trainers.run(tmp_path / "whole", settings)
    assert code == 0, notes
    random, total, runs = Random(0), dict[str, int](), 0
    while total.get("kills", 0) < 40:
        out, runs = tmp_path / f"run-{runs}", runs + 1
        seen = kill_until(trainers, helpers, out, settings, 40 - total.get("kills", 0), 3.0, random)
        total = {name: total.get(name, 0) + count for name, count in seen.items()}
        code, notes = trainers.run(out, settings)
        assert code == 0, notes
        assert helpers.differences(out, tmp_path / "whole") == []
    for name, count in (total | {"runs": runs}).items():
        record_property(name, count)
        print(f"{name}: {count}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_preempted_job_is_submitted_again(
    trainers: Any,
    config: dict[str, Any],
    whole: Path,
    helpers: Helpers,
    tmp_path: Path,
    number: int,
    code: int,
) -> None:
    out = tmp_path / "run"
    started = trainers.start(out, config)
    started.wait_until("3/10")
    started.send(number)
    found, notes = started.wait()
    assert found == code, notes
    assert f"error: stopped by {signal.Signals(number).name} after {helpers.newest(out)} of 10 steps" in notes
    assert trainers.run(out, config)[0] == 0
    assert helpers.differences(out, whole) == []


def test_files_that_cannot_grow(
    trainers: Any, config: dict[str, Any], whole: Path, helpers: Helpers, tmp_path: Path
) -> None:
    """The system refuses to write a checkpoint to its end, as a quota does."""
    out = tmp_path / "run"
    trainers.stop_after(5, out, config)
    before = {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()}
    size = len(before["step-00000005.safetensors"])
    code, notes = trainers.run(out, config, file_limit=size - 1000)
    assert code == 2
    assert "error: " in notes
    assert "step-00000006.safetensors could not be saved" in notes
    assert {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()} == before
    assert trainers.run(out, config)[0] == 0
    assert helpers.differences(out, whole) == []


@contextlib.contextmanager
def small_disk(place: Path, megabytes: float) -> Iterator[None]:
    """A file system of that size at ``place``; skips where nobody may mount one."""
    place.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    options = f"size={int(megabytes * 1024)}k"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path, but: int) -> Path:
    """A file that leaves ``but`` bytes of the file system."""
    filler = place / "filler"
    free = os.statvfs(place)
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - but))
    return filler


@pytest.mark.slow
def test_a_disk_that_is_full(
    trainers: Any, config: dict[str, Any], whole: Path, helpers: Helpers, tmp_path: Path
) -> None:
    """At eight degrees of fullness, from no room at all to room for a few checkpoints more."""
    size = RunFolder(whole).saved()[-1].stat().st_size
    stopped = 0
    with small_disk(tmp_path / "disk", 32):
        for room in (0, 4096, size // 4, size // 2, size - 4096, size + 4096, size * 3 // 2, size * 5 // 2):
            out = tmp_path / "disk" / f"run-{room}"
            trainers.stop_after(5, out, config)
            saved = RunFolder(out).saved()[-1].read_bytes()
            filler = fill(tmp_path / "disk", but=room)
            code, notes = trainers.run(out, config)
            assert code in (0, 2), notes
            reached = helpers.newest(out)
            assert reached >= 5
            if code == 2:
                stopped += 1
                assert "No space left on device" in notes
            if reached == 5:
                assert RunFolder(out).saved()[-1].read_bytes() == saved
            filler.unlink()
            assert trainers.run(out, config)[0] == 0
            assert helpers.differences(out, whole) == []
            shutil.rmtree(out)
    assert stopped >= 5


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scramble(path: Path) -> None:
    path.write_bytes(Random(0).randbytes(path.stat().st_size))


DAMAGES = {"truncated": truncate, "flipped": flip, "emptied": empty, "scrambled": scramble, "deleted": Path.unlink}
STATES = ("checkpoints/step-00000007.safetensors", "checkpoints/step-00000006.safetensors")
OTHERS = ("checkpoints/best.safetensors", "checkpoints/manifest.json", "metrics.jsonl", "starts.jsonl", "report.html")
SETTINGS = ("config.yaml", "facts.yaml")


def hurt(run: Path, file: str, damage: str, place: Path) -> Path:
    """A copy of a run with one file damaged."""
    shutil.copytree(run, place)
    DAMAGES[damage](place / file)
    return place


def check_damage(
    trainers: Any, config: Mapping[str, Any], whole: Path, helpers: Helpers, run: Path, file: str, damage: str
) -> None:
    """What a run with one damaged file does: go on to the same state, or refuse and touch nothing."""
    out = hurt(run, file, damage, run.with_name(f"{damage}-{Path(file).name}"))
    before = {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()}
    code, notes = trainers.run(out, config)
    if file in SETTINGS and (code == 2 or file == "config.yaml"):
        assert code == 2, notes
        assert "error: " in notes
        assert {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()} == before
        shutil.copy(run / file, out / file)
        code, notes = trainers.run(out, config)
    assert code == 0, notes
    wrong = [name for name in helpers.differences(out, whole) if name != "metrics" or file != "metrics.jsonl"]
    assert wrong == []
    if file == STATES[0] and damage != "deleted":
        assert (out / "checkpoints" / "step-00000007.damaged").exists()
        assert "resumed after 6 of 10 steps" in notes
    shutil.rmtree(out)


@pytest.mark.parametrize("file", [STATES[0], OTHERS[1], SETTINGS[0]])
def test_a_file_is_damaged(
    trainers: Any, config: dict[str, Any], whole: Path, helpers: Helpers, interrupted: Path, file: str
) -> None:
    check_damage(trainers, config, whole, helpers, interrupted, file, "flipped")


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_each_file_is_damaged(
    trainers: Any, config: dict[str, Any], whole: Path, helpers: Helpers, interrupted: Path, damage: str
) -> None:
    assert {str(path.relative_to(interrupted)) for path in interrupted.glob("**/*.*") if path.suffix != ".png"} == {
        *STATES,
        *OTHERS,
        *SETTINGS,
    }
    for file in (*STATES, *OTHERS, *SETTINGS):
        check_damage(trainers, config, whole, helpers, interrupted, file, damage)


def test_the_pictures_vanish_and_come_back(
    trainers: Any, config: dict[str, Any], helpers: Helpers, pictures: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(pictures, tmp_path / "pictures")
    settings = {**helpers.longer(config, steps=20), "data": {"source": str(mine)}}
    started = trainers.start(tmp_path / "run", settings, uncached=True)
    started.wait_until("3/20")
    for domain in ("discs", "squares"):
        (mine / domain).rename(mine / f".{domain}")
    code, notes = started.wait()
    assert code == 2, notes
    assert "error: " in notes
    assert "can be read" in notes or "cannot be read" in notes
    reached = helpers.newest(tmp_path / "run")
    assert 3 <= reached < 20
    for domain in ("discs", "squares"):
        (mine / f".{domain}").rename(mine / domain)
    assert trainers.run(tmp_path / "run", settings)[0] == 0
    assert trainers.run(tmp_path / "whole", settings)[0] == 0
    assert helpers.differences(tmp_path / "run", tmp_path / "whole") == []


def test_gradients_that_are_no_numbers(trainers: Any, config: dict[str, Any], helpers: Helpers, tmp_path: Path) -> None:
    """The run goes on without two steps; killed in between, it ends the same."""
    settings = helpers.longer(config, on_divergence="restore")
    code, notes = trainers.run(tmp_path / "poisoned", settings, poison=[1, 6])
    assert code == 0, notes
    assert steps_left_out(RunFolder(tmp_path / "poisoned")) == {2, 7}
    told = json.loads((tmp_path / "poisoned/failures/step-00000007/failure.json").read_text())
    assert told["module"].startswith("model.backbone")
    assert "backward" in told["module"]

    out = tmp_path / "killed"
    started = trainers.start(out, settings, poison=[1, 6])
    while not (out / "failures/step-00000002/failure.json").exists():
        time.sleep(0.01)
    started.send(signal.SIGKILL)
    started.wait()
    assert trainers.run(out, settings, poison=[6])[0] == 0
    assert helpers.differences(out, tmp_path / "poisoned") == []


def test_gradients_that_are_no_numbers_stop_a_run(
    trainers: Any, config: dict[str, Any], whole: Path, helpers: Helpers, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, notes = trainers.run(out, config, poison=[4])
    assert code == 2
    assert "error: the training diverged in step 5: a gradient's norm is nan (first in model.backbone" in notes
    assert helpers.newest(out) == 4
    assert trainers.run(out, config)[0] == 0
    assert helpers.differences(out, whole) == []
