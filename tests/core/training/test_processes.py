"""Several processes train as one does, to rounding."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclevar.core.config.base import merged, validate
from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.training import accelerator
from cyclevar.core.training.launch import pretrain, train
from cyclevar.core.training.processes import ALONE, LostProcessError, Team
from cyclevar.core.training.run_folder import RunFolder
from cyclevar.core.weights.checkpoints import load_tensors

WORKER = Path(__file__).with_name("worker.py")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def launch(
    config: TrainConfig | PretrainConfig,
    out: Path,
    processes: int,
    *arguments: str,
    device: str = "cpu",
    others: TrainConfig | None = None,
) -> list[subprocess.Popen[str]]:
    """Start the processes of a training, as a launcher does; ``others``: settings of all but the first one."""
    kind = "train" if isinstance(config, TrainConfig) else "pretrain"
    out.parent.mkdir(parents=True, exist_ok=True)
    files = out.with_suffix(".json"), out.with_suffix(".others.json")
    files[0].write_text(config.model_dump_json())
    files[1].write_text((others or config).model_dump_json())
    port = free_port()
    started = []
    for number in range(processes):
        team = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        team |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, str(WORKER), kind, str(files[number > 0]), str(out), device, *arguments]
        variables = {name: str(value) for name, value in team.items()} if processes > 1 else {}
        started.append(
            subprocess.Popen(
                command,
                env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def finish(started: list[subprocess.Popen[str]]) -> list[str]:
    printed = [one.communicate(timeout=300)[0] for one in started]
    assert [one.returncode for one in started] == [0] * len(started), "\n".join(printed)
    return printed


def state(run: Path) -> dict[str, Tensor]:
    return load_tensors(sorted((run / "checkpoints").glob("step-*.safetensors"))[-1])[0]


def figures(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = {"images_per_second", "data_wait", "memory_gb"}
    return [{name: value for name, value in line.items() if name not in speeds} for line in lines]


class Told:
    """A display that says nothing."""

    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def altered(config: Any, **changes: Any) -> Any:
    return validate(type(config), merged(config.model_dump(), changes))


def test_one_process_is_a_team_too() -> None:
    rows = torch.rand(5, 2)
    assert (ALONE.leads, ALONE.alone, ALONE.weight(5)) == (True, True, 1.0)
    assert ALONE.gather(rows) is rows
    assert torch.equal(rows[ALONE.part(5)], rows)
    assert (ALONE.blocks(3), ALONE.parts([2, 3])) == (None, None)
    assert ALONE.agree({"loss": 2.5}, 15) == ({"loss": 2.5}, 15)
    assert (ALONE.answer(3), ALONE.collect({"a": 1}), ALONE.in_turn(lambda: 4)) == (3, {"a": 1}, 4)
    with pytest.raises(RuntimeError, match="gloo"), ALONE.watching(Path("run")):
        raise RuntimeError("gloo")


def team_of(number: int, size: int) -> Team:
    team = Team()
    team.number, team.size = number, size
    return team


@pytest.mark.parametrize("count", [4, 5, 7, 8])
def test_parts_are_all_rows_and_their_means_that_of_all(count: int) -> None:
    rows = torch.rand(count)
    teams = [team_of(number, 3) for number in range(3)]
    assert torch.equal(torch.cat([rows[team.part(count)] for team in teams]), rows)
    mean = torch.stack([team.weight(count) * rows[team.part(count)].mean() for team in teams]).mean()
    assert torch.allclose(mean, rows.mean())
    for team in teams:
        locate = team.parts([count, 4])
        assert locate is not None
        total, places = locate(0)
        assert total == count + 4
        both = torch.arange(count + 4)
        assert torch.equal(
            torch.cat([both[place] for place in places]),
            torch.cat([both[:count][team.part(count)], both[count:][team.part(4)]]),
        )


def test_a_batch_that_cannot_be_shared() -> None:
    team_of(0, 3).demand_shares(6)
    with pytest.raises(ConfigError, match=r"a batch of 4 .* to 3 processes; expected a multiple of 3"):
        team_of(0, 3).demand_shares(4)


def test_a_lost_process_is_told_with_the_way_on(tmp_path: Path) -> None:
    with (
        pytest.raises(
            LostProcessError, match=r"another process .* is gone .*all 2 to the end.*--resume auto"
        ) as caught,
        team_of(0, 2).watching(tmp_path),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    assert caught.value.exit_code == 1
    with pytest.raises(RuntimeError, match="shape"), team_of(0, 2).watching(tmp_path):
        raise RuntimeError("wrong shape")


def test_settings_that_differ_between_processes_are_named(train_config: TrainConfig, tmp_path: Path) -> None:
    """A process with another learning rate: both refuse, and nothing is left in the place of the run."""
    others = altered(train_config, optimizer={"learning_rate": 2e-3})
    out = tmp_path / "runs" / "run"
    started = launch(train_config, out, 2, others=others)
    printed = [one.communicate(timeout=300)[0] for one in started]
    assert [one.returncode for one in started] == [2, 2], printed
    expected = "error: optimizer.learning_rate: 0.001 in process 0, 0.002 in process 1; expected the same settings"
    for text in printed:
        assert text.startswith(expected), text
        assert text.count("\n") == 1
    assert not out.exists()


@pytest.mark.slow
def test_a_stopped_process_is_noticed_after_the_patience(train_config: TrainConfig, tmp_path: Path) -> None:
    config = altered(train_config, loop={"steps": 100000, "save_every": 5})
    first, second = launch(config, tmp_path / "run", 2, "patience", "5")
    try:
        assert first.stdout is not None
        while "step 6" not in (line := first.stdout.readline()):
            assert line, "it ended early"
        second.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        text, _ = first.communicate(timeout=60)
        waited = time.monotonic() - begun
    finally:
        second.kill()
        second.communicate()
    assert first.returncode == 1, text
    assert "error: another process of this training is gone" in text
    assert 4 < waited < 20


def test_the_patience_is_what_the_processes_get(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes is a default of accelerate too, which it does not pass on."""
    seen: list[Any] = []
    monkeypatch.setattr(accelerator, "Accelerator", lambda **settings: seen.append(settings) or pytest.fail("made"))
    with pytest.raises(pytest.fail.Exception):
        accelerator.make_accelerator("cpu")
    [handler] = seen[0]["kwargs_handlers"]
    assert handler.to_kwargs()["timeout"].total_seconds() == pytest.approx(600, abs=0.01)


def test_the_same_training_twice_is_refused(train_config: TrainConfig, tmp_path: Path) -> None:
    """While a process trains in a folder, another one is refused in one line; once it was killed, the next goes on."""
    config = altered(train_config, loop={"steps": 100000, "save_every": 5})
    [first] = launch(config, tmp_path / "run", 1)
    try:
        assert first.stdout is not None
        while "step 6" not in (line := first.stdout.readline()):
            assert line, "it ended early"
        [second] = launch(config, tmp_path / "run", 1, "resume")
        text, _ = second.communicate(timeout=120)
        assert second.returncode == 2, text
        assert f"run is in use by process {first.pid} on {socket.gethostname()} since 20" in text
        assert text.count("\n") == 1
        assert len((tmp_path / "run" / "starts.jsonl").read_text().splitlines()) == 1
    finally:
        first.kill()
        first.communicate()
    assert (tmp_path / "run" / ".lock").exists()
    [third] = launch(altered(config, loop={"steps": 12}), tmp_path / "run", 1, "resume")
    assert "resumed after " in finish([third])[0]
    assert not (tmp_path / "run" / ".lock").exists()


def test_two_trainings_without_a_name_get_different_ones(train_config: TrainConfig, tmp_path: Path) -> None:
    """Both were given the same free name, as it happens when they are started together."""
    config = altered(train_config, loop={"steps": 2})
    started = [launch(config, tmp_path / "toy-1", 1, "numbered")[0] for _ in range(2)]
    finish(started)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["toy-1", "toy-2"]
    for name in ("toy-1", "toy-2"):
        assert [line["step"] for line in figures(tmp_path / name)] == [1, 2, 2]
        assert not (tmp_path / name / ".lock").exists()


CASES = {
    "train": (2, {"discriminator": {"r1": 0.1, "r1_every": 2}}),
    "train sharded": (2, {"sharded": True, "discriminator": {"r1": 0.1, "r1_every": 2}}),
    "cyclegan": (2, {"batch_size": 2}),
    "cyclegan sharded": (2, {"batch_size": 2, "sharded": True}),
    "paper": (2, {}),
    "lora": (2, {}),
    "backbone": (2, {}),
    "flexvar_backbone": (2, {}),
    "train accumulated": (2, {"accumulate": 2, "discriminator": {"settings": {"width": 8, "augment": []}}}),
    "train odd": (3, {"batch_size": 3}),
}
"""Name of a configuration -> how many processes train it, and what is changed of it."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case == "train" else pytest.mark.slow) for case in CASES]
)
@pytest.mark.usefixtures("light")
def test_every_step_of_two_processes_is_that_of_one(case: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """From the same state, with augmentation, pools and all: the same gradients, pools and random states.

    Adam turns rounding in gradients that ought to be nothing into whole steps, so each step begins with the state that
    the single process had there, and what is compared is the moments, which are linear in the gradients.
    """
    processes, changes = CASES[case]
    config = altered(request.getfixturevalue(f"{case.split()[0]}_config"), **changes)
    section = {} if isinstance(config, TrainConfig) else config.section
    loop = {"save_every": 1, "keep": 99}
    config = altered(config, **({section: {"loop": loop}} if section else {"loop": loop}))
    begin = train if isinstance(config, TrainConfig) else pretrain
    begin(config, tmp_path / "one", resume=False, display=Told(), device="cpu")
    printed = finish(launch(config, tmp_path / "two", processes, "replay", str(tmp_path / "one")))
    assert printed[1:] == [""] * (processes - 1)  # only the leading process speaks
    folder = RunFolder(tmp_path / "one")
    folder.checkpoints, compared, largest = tmp_path / "two" / "replayed", 0, 0.0
    for path in folder.saved():
        one, two = load_tensors(tmp_path / "one" / "checkpoints" / path.name)[0], load_tensors(path)[0]
        assert {name for name, value in one.items() if value.numel()} == {
            n for n, value in two.items() if value.numel()
        }
        for part in ("optimizer", "discriminator_optimizer"):
            names = [name for name in one if name.startswith(f"{part}/") and name.endswith("/exp_avg") and name in two]
            if names:
                whole, joint = (torch.cat([state[name].flatten() for name in names]) for state in (one, two))
                difference = float((whole - joint).norm()) / max(float(whole.norm()), 1e-30)
                assert difference < 1e-4, (path.name, part)
                largest = max(largest, difference)
        for name in one:
            if name.startswith("pools/"):
                assert torch.allclose(one[name].float(), two[name].float(), atol=1e-5), (path.name, name)
            if name.startswith(("random/", "progress/")):
                assert torch.equal(one[name], two[name]), (path.name, name)
        compared += 1
    assert compared == 19
    print(f"{case}: moments differ by at most {largest:.1e} of their norm")


@pytest.mark.cuda
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_two_gpus_train_to_the_end(train_config: TrainConfig, tmp_path: Path, sharded: bool) -> None:
    config = altered(train_config, sharded=sharded, precision="float32")
    printed = finish(launch(config, tmp_path / "run", 2, device="cuda"))
    assert printed[1] == ""
    assert (tmp_path / "run" / "translator.json").is_file()
