"""``cyclevar reproduce`` with small models, little data and four steps a row."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from cyclevar.cli.main import main
from cyclevar.core.evaluation import evaluate
from cyclevar.core.models import catalog as models
from cyclevar.core.reproduce import run as reproduction
from cyclevar.core.reproduce import tables
from cyclevar.core.reproduce.tables import Scale
from cyclevar.core.training.loop import StoppedError
from cyclevar.core.weights.shipped import WEIGHTS

Run = Callable[..., tuple[int, str, str]]

MICRO = Scale(
    "micro",
    {
        "batch_size": 1,
        "warmup": {"steps": 1},
        "discriminator": {"name": "features", "settings": {"input_size": 32}, "pretrain_steps": 1},
        "loop": {"steps": 4, "log_every": 1, "validate_every": 4, "sample_every": 4, "save_every": 1, "keep": 1},
    },
    pictures=6,
    minutes=0.1,
    shows="Nothing.",
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    small_translator: Path,
    few_emoji: object,
) -> Run:
    """Runs ``cyclevar reproduce`` in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CYCLEVAR_CACHE", str(tmp_path.with_name(f"{tmp_path.name}-cache")))
    monkeypatch.setattr(models, "shipped_weights", lambda family, preset: small_translator / WEIGHTS)
    monkeypatch.setattr(tables, "SCALES", {"micro": MICRO})
    monkeypatch.setattr(evaluate, "_demand_enough", lambda *_: None)
    monkeypatch.setattr(reproduction, "time_pictures", lambda *_: {"value": 0.1, "low": 0.1, "high": 0.1})

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["reproduce", *map(str, arguments), "--scale", "micro"])
        return code, *capsys.readouterr()

    return run


def test_an_interrupted_table_comes_out_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, errors = run("table3", "--out", "whole", "--device", "cpu")
    assert (code, errors) == (0, "")
    assert out.splitlines()[-1] == "whole/table3.md is the table; table3.json and table3.png lie beside it."
    names = {"baseline-0", "serial-0", "table3.json", "table3.md", "table3.png"}
    assert {path.name for path in Path("whole").iterdir()} == names
    facts = json.loads(Path("whole/table3.json").read_text())
    assert [row["seeds"] for row in facts["rows"]] == [[0], [0]]
    serial, baseline = (row["directions"]["noto > fluent"]["kid_rt"]["mean"] for row in facts["rows"])
    assert serial != baseline

    trained: list[str] = []
    real = reproduction.train

    def stop_in_the_middle(config, folder, **options):  # type: ignore[no-untyped-def]
        trained.append(folder.name)
        if folder.name == "baseline-0" and not options["resume"]:
            short = config.model_copy(update={"loop": config.loop.model_copy(update={"steps": 3})})
            real(short, folder, **options)
            raise KeyboardInterrupt
        return real(config, folder, **options)

    monkeypatch.setattr(reproduction, "train", stop_in_the_middle)
    assert run("table3", "--out", "parts", "--device", "cpu")[0] == 130
    assert json.loads(Path("parts/table3.json").read_text())["rows"][1]["seeds"] == []
    assert run("table3", "--out", "parts", "--device", "cpu")[0] == 0
    assert trained == ["serial-0", "baseline-0", "baseline-0"]
    for name in ("table3.json", "table3.md", "table3.png"):
        assert Path("parts", name).read_bytes() == Path("whole", name).read_bytes()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("done before")

    monkeypatch.setattr(reproduction, "train", never)
    monkeypatch.setattr(reproduction, "evaluate_translator", never)
    assert run("table3", "--out", "parts", "--device", "cpu")[0] == 0
    assert Path("parts/table3.json").read_bytes() == Path("whole/table3.json").read_bytes()


def test_tables_share_the_baseline_and_rows_can_be_chosen(run: Run) -> None:
    assert run("table3", "--rows", "baseline", "--steps", 3, "--seeds", "1,0", "--device", "cpu")[0] == 0
    stamp = Path("reproduce-micro/baseline-0/model.safetensors").stat().st_mtime_ns
    assert run("table5", "--rows", "baseline,gumbel", "--steps", 3, "--device", "cpu")[0] == 0
    assert Path("reproduce-micro/baseline-0/model.safetensors").stat().st_mtime_ns == stamp
    facts = json.loads(Path("reproduce-micro/table5.json").read_text())
    assert {row["name"]: row["seeds"] for row in facts["rows"] if row["seeds"]} == {"baseline": [0, 1], "gumbel": [0]}
    assert facts["steps"] == 3
    marks = {claim["worse"]: claim["marks"]["noto > fluent"] for claim in facts["claims"]}
    assert marks.pop("gumbel") != "not measured"
    assert set(marks.values()) == {"not measured"}

    gumbel = Path("reproduce-micro/gumbel-0/evaluation.json")
    judged = json.loads(gumbel.read_text())
    gumbel.write_text(json.dumps({**judged, "nets": {}}))  # as if other nets had judged it
    assert run("table5", "--rows", "baseline", "--steps", 3, "--device", "cpu")[0] == 0
    facts = json.loads(Path("reproduce-micro/table5.json").read_text())
    assert [row["name"] for row in facts["rows"] if row["seeds"]] == ["baseline"]
    assert run("table5", "--rows", "gumbel", "--steps", 3, "--device", "cpu")[0] == 0
    assert json.loads(gumbel.read_text()) == judged

    code, _, errors = run("table3", "--rows", "baseline", "--steps", 3, "--out", "reproduce-micro/baseline-0")
    assert (code, "is a run itself" in errors) == (2, True)
    assert run("table3", "--rows", "baseline", "--device", "cpu")[0] == 0  # one step more, from the checkpoint
    code, _, errors = run("table3", "--rows", "baseline", "--steps", 3)
    assert (code, "has made 4 steps; expected no more than 3" in errors) == (2, True)


def test_a_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    code, out, errors = run("table3", "--dry-run", "--seeds", "0,1,2", "--steps", 8)
    assert (code, errors) == (0, "")
    assert (
        "serial: serial, scale by scale (Eq. 6-7, Algorithm 1); changes translation.mode=serial; paper: FID 82" in out
    )
    assert "paper: FID 48, 0.08 s" in out
    assert "rows times seeds: 6 of 8 steps, about 1 min together on one busy core" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_imports_no_torch() -> None:
    code = (
        "import sys; from cyclevar.cli.main import main; main(['reproduce', 'table5', '--dry-run']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "gumbel: temperature 2 with Gumbel noise" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["tabel3"],
            "there is no table named 'tabel3'; expected one of table3, table4, table5; did you mean 'table3'?",
        ),
        (
            ["table3", "--rows", "paralel"],
            "there is no row of table3 named 'paralel'; expected one of baseline, serial.",
        ),
        (["table3", "--steps", "2"], "--steps is 2; expected 3 or more: 2 go into warm-up and discriminators."),
        (["table3", "--seeds", "0,x"], "--seeds is '0,x'; expected whole numbers from 0, such as 0,1,2."),
        (["table3", "--out", "other"], "other/serial-0 exists and is not a run; choose another folder with --out."),
        (
            ["table3", "--out", "wrong"],
            "the settings differ from those of the run in wrong/serial-0: seed was 5, is 0; expected the same, so that "
            "the run goes on as if it had never stopped; choose another folder with --out for a new run.",
        ),
        (["table3", "--out", "file"], "file is a file; expected a folder to write to; choose another name."),
    ],
)
def test_what_is_wrong_is_one_line(run: Run, arguments: list[str], line: str) -> None:
    Path("other/serial-0").mkdir(parents=True)
    Path("other/serial-0/thesis.txt").touch()
    Path("wrong/serial-0").mkdir(parents=True)
    settings = MICRO.config(tables.find_table("table3").rows[0], 5).model_dump_json()
    Path("wrong/serial-0/config.yaml").write_text(settings)
    Path("file").touch()
    code, out, errors = run(*arguments)
    assert (code, out) == (2, "")
    assert errors == f"cyclevar: error: {line}\n"


def test_a_signal_says_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(config: object, folder: Path, **_: object) -> None:
        raise StoppedError(signal.SIGTERM, 2, 4, folder)

    monkeypatch.setattr(reproduction, "train", stop)
    code, _, errors = run("table3", "--device", "cpu")
    assert code == 143
    saved = "stopped by SIGTERM after 2 of 4 steps, which are saved in reproduce-micro/serial-0"
    assert errors == f"cyclevar: error: {saved}; the same command goes on.\n"


def test_a_full_disk_is_told_before_anything_is_trained(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "RUN_BYTES", 10**18)
    code, _, errors = run("table3")
    assert code == 2
    assert "GB of free disk space; expected 2000000000.0 GB for the runs that are left" in errors
    assert not Path("reproduce-micro").exists()
