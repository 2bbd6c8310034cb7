"""Results as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from cyclevar.core.errors import ConfigError

if TYPE_CHECKING:
    from cyclevar.core.bench.run import BenchResult, Spread, Stage
    from cyclevar.core.diagnostics.memory_estimate import Estimate as MemoryEstimate
    from cyclevar.core.evaluation.metrics import Estimate, FrechetDistance
    from cyclevar.core.evaluation.results import Direction, Evaluation


def estimate_table(found: MemoryEstimate, *, translates: bool = False) -> RenderableType:
    """The estimate for a terminal; ``translates``: it is one of a translation, with tokenizer and backbone."""
    drawn = Table("component", "parameters", "MB", pad_edge=False)
    for column in drawn.columns[1:]:
        column.justify = "right"
    for name, parameters, size in found.rows():
        drawn.add_row(name, f"{parameters:,}" if parameters else "", f"{size / 1e6:,.1f}" if size else "")
    notes = ["The process itself comes on top (Python, torch, on a GPU the CUDA context)."]
    if found.trained:
        notes.insert(0, f"{found.trained:,} parameters are trained. Validation: {found.validation_bytes / 1e9:.2f} GB.")
    if translates:
        copies = found.memory["tokenizer"] + found.memory["backbone"]
        notes.append(f"`translate` on a CPU rearranges the weights first, and may take {copies / 1e9:.2f} GB more.")
    if found.savings:
        notes.append(f"Less memory: {', '.join(found.savings)}.")
    return Group(f"{found.what}: {found.peak_bytes / 1e9:.2f} GB", drawn, *notes)


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


def evaluation_tables(evaluation: Evaluation) -> tuple[Table, ...]:
    """One table per direction, captioned with what the metrics were computed with."""
    return tuple(_direction_table(evaluation, direction) for direction in evaluation.directions)


def _direction_table(evaluation: Evaluation, direction: Direction) -> Table:
    from cyclevar.core.evaluation.results import FIGURES

    table = Table(title=direction.name, caption=_caption(evaluation, direction))
    table.add_column()
    for row in direction.rows:
        table.add_column(row.name, justify="right")
    for name, metric in {**FIGURES, **evaluation.registered}.items():
        figures = [row.figure(name) for row in direction.rows]
        if any(figure is not None for figure in figures):
            table.add_row(metric.title, *(_cell(figure, metric.form) for figure in figures))
    return table


def _caption(evaluation: Evaluation, direction: Direction) -> str:
    counts = ", ".join(f"{count} of {name}" for name, count in evaluation.pictures.items())
    parts = [] if direction.copy_ratio is None else [f"copy ratio {direction.copy_ratio:.2f}"]
    parts.append(f"pictures: {counts} at {evaluation.size[1]} x {evaluation.size[0]}")
    if evaluation.reference_pictures:
        parts.append(f"{evaluation.reference_pictures[direction.target]} training pictures for KID-rt")
    parts += [
        f"{use.replace('_', ' ')} by {net.name} {net.weights_sha256[:8]} ({net.reads})"
        for use, net in evaluation.nets.items()
    ]
    return "; ".join([*parts, "KID x 1000; 95 % intervals"])


def _cell(figure: Estimate | FrechetDistance | None, form: str) -> str:
    from cyclevar.core.evaluation.metrics import FrechetDistance

    if figure is None:
        return "-"
    text = form.format(figure.value)
    if isinstance(figure, FrechetDistance):
        return text + ("*" if figure.rank_deficient else "")
    if figure.low is None or figure.high is None:
        return text
    return f"{text} [{form.format(figure.low)}, {form.format(figure.high)}]"
