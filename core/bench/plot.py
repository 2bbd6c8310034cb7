"""Read results, and draw how times grow along a sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from cyclevar.core.bench.run import BenchResult
from cyclevar.core.errors import ConfigError


def read(path: Path) -> BenchResult:
    """A result that ``--json`` printed. Raises `ConfigError` for another file."""
    try:
        return BenchResult.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds something else"
        raise ConfigError(
            f"{path} cannot be read ({reason})", expected="what `cyclevar bench --json > FILE` writes"
        ) from error


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
