"""The bench: stages, counted work, both paths in turn, comparisons, sweeps."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cyclevar.cli._tables import compare
from cyclevar.core.bench.config import BenchConfig, default_preset
from cyclevar.core.bench.plot import plot, read
from cyclevar.core.bench.run import BenchResult, Spread, bench
from cyclevar.core.bench.stages import StageClock
from cyclevar.core.bench.sweep import sweep
from cyclevar.core.bench.work import Work
from cyclevar.core.bench.worker import Worker
from cyclevar.core.errors import ConfigError, CyclevarError

CPU = torch.device("cpu")
TINY = BenchConfig(preset="tiny", device="cpu")


@pytest.fixture(scope="module")
def result() -> BenchResult:
    return bench(TINY, rounds=2)


def test_an_inner_stage_does_not_count_for_the_outer_one() -> None:
    times = iter([0.0, 1.0, 3.0, 7.0])
    clock = StageClock(CPU, now=lambda: next(times))
    with clock.stage("outer"), clock.stage("inner"):
        pass
    assert clock.seconds() == {"outer": 1.0 + 4.0, "inner": 2.0}


def test_work_is_counted_by_stage() -> None:
    with FlopCounterMode(display=False) as counter:
        clock = StageClock(CPU, counter)
        with clock.stage("first"):
            _ = torch.ones(3, 4) @ torch.ones(4, 5)
        with clock.stage("second"):
            _ = torch.ones(1, 2) @ torch.ones(2, 1)
    assert clock.flops() == {"first": 2 * 3 * 4 * 5, "second": 4}


def test_stages_of_a_translation(result: BenchResult) -> None:
    assert [stage.name for stage in result.stages] == ["encode", "tokenize", "backbone", "SRQ and compose", "decode"]
    assert result.total.flop == sum(stage.flop for stage in result.stages) > 1e9
    assert all(stage.seconds.median > 0 for stage in result.stages)
    assert result.total.seconds.median > max(stage.seconds.median for stage in result.stages)
    assert result.pictures_per_second == pytest.approx(1 / result.total.seconds.median)
    assert set(result.ceilings) == {"matrix product", "convolution"}


def test_both_paths_make_the_same_picture(result: BenchResult) -> None:
    assert result.largest_difference is not None
    assert 0 <= result.largest_difference < 1e-4
    assert result.speedup_over_plain is not None
    assert result.speedup_over_plain > 0.2
    assert result.plain_peak_bytes is not None
    assert result.plain_peak_bytes > result.weight_bytes["backbone"]


@pytest.mark.slow
def test_the_plain_path_alone() -> None:
    alone = bench(TINY, rounds=1, plain=True)
    assert alone.speedup_over_plain is None
    assert alone.total.plain_seconds is None


@pytest.mark.slow
def test_training_is_timed() -> None:
    config = TINY.model_copy(update={"mode": "train"})
    trained = bench(config, rounds=1)
    assert [stage.name for stage in trained.stages][-2:] == ["losses, gradients, updates", "decode"]
    assert trained.total.flop > 10 * 2e9
    assert trained.largest_difference is None


@pytest.mark.parametrize("family", ["infinity", "flexvar"])
def test_every_family_generates(family: str) -> None:
    work = Work(TINY.model_copy(update={"mode": "generate", "backbone": family}), plain=False)
    times = work.timed()
    assert set(times) == {"sample and compose", "backbone", "decode"}


@pytest.mark.cuda
@pytest.mark.parametrize("mode", ["parallel", "serial"])
def test_a_captured_pass_has_no_stages(mode: Literal["parallel", "serial"], tmp_path: Path) -> None:
    made = bench(TINY.model_copy(update={"device": "cuda", "mode": mode, "capture": True}), rounds=2)
    assert not made.stages
    assert made.largest_difference is not None
    assert made.largest_difference < 0.1
    assert made.total.seconds.median > 0
    plot([made, made], "batch", [1, 2], tmp_path / "plot.png")


def test_time_that_the_processor_spends() -> None:
    threads = torch.get_num_threads()
    try:
        work = Work(TINY.model_copy(update={"cpu_time": True}), plain=False)
        assert torch.get_num_threads() == 1
        begun = time.process_time()
        seconds = sum(work.timed().values())
        assert 0 < seconds <= time.process_time() - begun
    finally:
        torch.set_num_threads(threads)


def test_nothing_is_captured_on_a_cpu() -> None:
    assert Work(TINY.model_copy(update={"capture": True}), plain=False).captured is None


def test_a_result_comes_back_from_its_file(result: BenchResult, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(result.model_dump_json())
    assert read(path) == result
    path.write_text("{}")
    with pytest.raises(ConfigError, match="holds something else"):
        read(path)


def test_other_machines_are_not_compared(result: BenchResult) -> None:
    elsewhere = result.model_copy(update={"machine": {**result.machine, "processor": "another"}})
    assert compare(result, result).row_count == 6
    with pytest.raises(ConfigError, match="different machines: processor"):
        compare(result, elsewhere)
    assert compare(result, elsewhere, force=True).row_count == 6


def test_spread() -> None:
    assert Spread.of([3.0]) == Spread(median=3, low=3, high=3)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(median=3, low=2, high=4)


def test_sweeps(result: BenchResult, tmp_path: Path) -> None:
    assert [one.batch for one in sweep(TINY, "batch", [1, 3]).values()] == [1, 3]
    scales = sweep(TINY, "scales", [2, 3])
    assert [one.schedule for one in scales.values()] == ["1-16", "1-6-16"]
    sizes = sweep(TINY.model_copy(update={"backbone": "flexvar"}), "size", [64, 128])
    assert [one.size for one in sizes.values()] == [64, 128]
    with pytest.raises(ConfigError, match="at least two sizes"):
        sweep(TINY, "size", [64, 128])
    plot([result, result], "batch", [1, 2], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_default_presets() -> None:
    assert [default_preset(family) for family in ("var", "infinity", "flexvar")] == ["d16", "layer12", "d16"]
    with pytest.raises(CyclevarError, match="inifinity"):
        default_preset("inifinity")


def test_a_process_that_dies_is_reported() -> None:
    with Worker(TINY, plain=True) as worker:
        worker.ask("facts")
        pid = worker._process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(CyclevarError, match="ended by itself"):
            worker.ask("pass")


def test_what_cannot_be_built_is_said_by_the_process() -> None:
    with pytest.raises(ConfigError, match="makes no pictures of 100x100"):
        bench(TINY.model_copy(update={"size": 100}), rounds=1)
