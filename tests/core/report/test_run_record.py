"""A run read back from its folder: damage is counted, the command makes the same settings again, names are found."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclevar.core.config.base import Settings, validate
from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.report.run_files import read_lines
from cyclevar.core.report.run_record import find_runs, read_run
from cyclevar.core.runtime.machine import describe_machine
from cyclevar.core.training.resolve import prepare


def test_curves_are_the_finite_figures_of_the_log(make_run: Any) -> None:
    lines = (
        {"step": 2, "loss": 1.5, "note": "text", "flag": True},
        {"step": 4, "loss": float("nan"), "validation/kid": 3},
        {"step": 6, "loss": 0.5},
    )
    record = read_run(make_run(lines=lines))
    assert record.curves == {"loss": [(2, 1.5), (6, 0.5)], "validation/kid": [(4, 3.0)]}
    assert (record.step, record.steps, record.notes) == (6, 3000, [])


def test_damaged_lines_are_skipped_and_counted(make_run: Any) -> None:
    damaged = '{"step": 2, "loss": 1}\n{"step": 4, "lo\n[1]\n{"loss": 2}\n{"step": true}\n{"step": 6, "loss": 3}\n'
    run = make_run(metrics_jsonl=damaged)
    assert read_lines(run / "metrics.jsonl") == ([{"step": 2, "loss": 1}, {"step": 6, "loss": 3}], 4)
    record = read_run(run)
    assert record.curves == {"loss": [(2, 1.0), (6, 3.0)]}
    assert record.notes == ["metrics.jsonl: 4 damaged lines left out."]


def test_other_damaged_files_are_noted(make_run: Any) -> None:
    record = read_run(make_run(facts_yaml="[", evaluation_json='{"no": 1}'))
    assert record.notes == [
        "facts.yaml cannot be read.",
        "evaluation.json is not what `cyclevar evaluate --json` prints.",
    ]


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        validate(
            TrainConfig,
            {
                "weights": "a folder/it's here.safetensors",
                "data": {"source": "pictures"},
                "targets": ["1", 2],
                "model": {"backbone": {"depth": 2, "class_names": ["no", "ünï"]}},
                "optimizer": {"learning_rate": 1e-05, "betas": [0.5, 0.9]},
                "discriminator": {"settings": {"width": 8}},
                "lora": {"rank": 2},
            },
        ),
        validate(PretrainConfig, {"stage": "backbone", "weights": "true", "transformer": {"loop": {"steps": 7}}}),
    ],
)
def test_the_command_makes_the_same_settings_again(make_run: Any, config: Settings) -> None:
    record = read_run(make_run(config=config))
    program, command, *options = shlex.split(record.reproduction)
    assert (program, command) == ("cyclevar", "pretrain" if isinstance(config, PretrainConfig) else "train")
    assert set(options[::2]) <= {"--set"}
    assert prepare(type(config), {}, overrides=options[1::2]).config == config


def test_the_command_names_the_device(make_run: Any) -> None:
    starts = '{"step": 0, "machine": {"device": "cuda"}}\n{"step": 5, "machine": {"device": "cpu"}}\n'
    record = read_run(make_run(starts_jsonl=starts))
    assert record.reproduction == "cyclevar train --device cpu"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a run; expected a folder with config.yaml"):
        read_run(tmp_path)


def test_runs_are_found_by_path_and_by_name(make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make_run("runs/var-1"), make_run("runs/var-2")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    root = Path("runs")
    assert find_runs(["var-1", "runs/var-2"], root) == [Path("runs/var-1"), Path("runs/var-2")]
    assert find_runs([str(first), str(second)], root) == [first, second]
    with pytest.raises(UnknownNameError, match=r"no run named 'vra-1'.*did you mean 'var-1'\?"):
        find_runs(["vra-1"], root)
    with pytest.raises(UnknownNameError, match=r"did you mean 'runs/var-2'\?"):
        find_runs(["runs/vor-2"], root)
    with pytest.raises(ConfigError, match="other is not a run"):
        find_runs(["other"], root)
    with pytest.raises(ConfigError, match="var-1 is named twice"):
        find_runs(["var-1", str(first)], root)
    with pytest.raises(ConfigError, match=r"no run is named; expected .*there are runs/var-1, runs/var-2"):
        find_runs([], root)
    with pytest.raises(ConfigError, match="there is no run anything; expected a run folder"):
        find_runs(["anything"], Path("nowhere"))
    with pytest.raises(ConfigError, match="there are none in nowhere"):
        find_runs([], Path("nowhere"))


def test_the_machine_is_described() -> None:
    found = describe_machine(torch.device("cpu"))
    assert found["device"] == "cpu"
    assert found["torch"] == torch.__version__
    assert int(found["cores"].split(",")[0]) >= 1
    assert "GPU" not in found
