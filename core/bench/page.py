"""Results as tables and pictures, and two results side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.table import Table

from cyclevar.core.bench.run import BenchResult, Spread, Stage
from cyclevar.core.errors import ConfigError


def describe(result: BenchResult) -> RenderableType:
    """The result for a terminal: a table of the stages, and what else is to be known in a few lines."""
    compared = result.total.plain_seconds is not None
    columns = ["stage", "ms", "share", "GFLOP", "GFLOP/s", "of ceiling", *(["plain ms", "faster"] * compared)]
    table = Table(*columns, padding=(0, 0), pad_edge=False)
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for stage in (*result.stages, result.total):
        if stage is result.total:
            table.add_section()
        table.add_row(*_cells(stage, compared))
    return Group(_title(result), table, *_notes(result))


def _cells(stage: Stage, compared: bool) -> list[str]:
    cells = [
        stage.name,
        _milliseconds(stage.seconds),
        f"{stage.share:.0%}",
        f"{stage.flop / 1e9:,.1f}",
        f"{stage.flop_per_second / 1e9:,.0f}",
        "" if stage.of_ceiling is None else f"{stage.of_ceiling:.0%}",
    ]
    if compared:
        assert stage.plain_seconds is not None
        assert stage.speedup_over_plain is not None
        cells += [_milliseconds(stage.plain_seconds), _ratio(stage.speedup_over_plain)]
    return cells


def _title(result: BenchResult) -> str:
    config, (height, width) = result.config, result.image_size
    extras = [name.replace("_", " ") for name in ("compile", "capture", "int8", "cpu_time") if getattr(config, name)]
    where = result.machine.get("GPU") or result.machine.get("processor", "")
    parts = [
        f"{config.backbone} {config.preset}, {config.mode}, {height}x{width} pixels, batch {config.batch}",
        ", ".join([result.dtype, *extras]),
        f"{result.machine['device']} ({where}, {result.machine['threads']} threads)",
        f"median ±half the distance of the quartiles of {result.rounds} rounds",
    ]
    return "; ".join(parts)


def _notes(result: BenchResult) -> list[str]:
    ceilings = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in a large {name}" for name, rate in result.ceilings.items())
    peak = f"peak memory {result.peak_bytes / 1e9:.2f} GB"
    if result.plain_peak_bytes is not None:
        peak += f" (plain {result.plain_peak_bytes / 1e9:.2f} GB)"
    weights = ", ".join(f"{part} {size / 1e6:,.0f} MB" for part, size in result.weight_bytes.items())
    lines = [
        f"{result.pictures_per_second:.3g} pictures a second; {peak}; weights: {weights}",
        f"attention: {result.attention}; ceiling: {ceilings}",
    ]
    if result.speedup_over_plain is not None:
        same = f"; largest difference of a value in [-1,1]: {result.largest_difference:.1g}"
        lines.append(f"{result.speedup_over_plain:.2f} times as fast as the plain path{same}")
    return lines


def _milliseconds(seconds: Spread) -> str:
    return f"{1e3 * seconds.median:,.1f} {_around(seconds)}"


def _ratio(ratio: Spread) -> str:
    return f"{ratio.median:.2f} {_around(ratio)}"


def _around(spread: Spread) -> str:
    """Half the distance of the quartiles, as a share of the median."""
    return f"±{(spread.high - spread.low) / 2 / spread.median:.0%}"


def read(path: Path) -> BenchResult:
    """A result that ``--json`` printed. Raises `ConfigError` for another file."""
    try:
        return BenchResult.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds something else"
        raise ConfigError(
            f"{path} cannot be read ({reason})", expected="what `cyclevar bench --json > FILE` writes"
        ) from error


def compare(one: BenchResult, other: BenchResult, *, force: bool = False) -> Table:
    """Two results as a table. Raises `ConfigError` for results of different machines, unless ``force``."""
    differing = [
        name
        for name in sorted({*one.machine, *other.machine})
        if name != "cyclevar" and one.machine.get(name) != other.machine.get(name)
    ]
    if differing and not force:
        first, second = one.machine.get(differing[0], "unknown"), other.machine.get(differing[0], "unknown")
        raise ConfigError(
            f"the results are of different machines: {differing[0]} is {first} and {second}",
            expected="two results of one machine",
            hint="measure both on one, or compare them all the same with --force",
        )
    table = Table("stage", "A ms", "B ms", "A / B", title=f"A: {_title(one)}\nB: {_title(other)}")
    for column in table.columns[1:]:
        column.justify = "right"
    mine, theirs = ({stage.name: stage for stage in (*result.stages, result.total)} for result in (one, other))
    for name in dict.fromkeys([*mine, *theirs]):
        times = [f"{1e3 * side[name].seconds.median:,.1f}" if name in side else "" for side in (mine, theirs)]
        both = name in mine and name in theirs
        ratio = f"{mine[name].seconds.median / theirs[name].seconds.median:.2f}" if both else ""
        table.add_row(name, *times, ratio)
    return table


def plot(results: Sequence[BenchResult], along: str, values: Sequence[int], path: Path) -> None:
    """Draw how the stages' times grow along ``values`` of batch, size or scales, stacked, into a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    names = [stage.name for stage in results[-1].stages or (results[-1].total,)]
    medians = [{s.name: 1e3 * s.seconds.median for s in (*one.stages, one.total)} for one in results]
    times = [[one.get(name, 0.0) for one in medians] for name in names]
    axes.stackplot(values, times, labels=names, alpha=0.85)
    if results[0].total.plain_seconds is not None:
        plain = [1e3 * one.total.plain_seconds.median for one in results if one.total.plain_seconds]
        axes.plot(values, plain, "k--o", markersize=4, label="plain path, all")
    axes.set_xticks(list(values))
    axes.set_xlim(values[0], values[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel({"batch": "pictures in a batch", "size": "pixels a side", "scales": "scales"}[along])
    axes.set_ylabel("milliseconds a pass")
    config = results[0].config
    axes.set_title(f"{config.backbone} {config.preset}, {config.mode}, {results[0].machine['device']}")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper left")
    figure.savefig(path, dpi=120)
