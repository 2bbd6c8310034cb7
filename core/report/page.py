"""The page of one run, or of several side by side: one HTML file that needs nothing beside it.

Its size is bounded: at most `SHEETS` sample sheets of `SHEET_BYTES` each, `METRICS` charts of `curves.POINTS` points a
line. One run takes less than 6 MB, most take under 2; every further run adds its lines and figures.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cyclevar.core.data.images import read_picture
from cyclevar.core.errors import PictureError, brief
from cyclevar.core.report.curves import Chart, draw
from cyclevar.core.report.run_record import Record, read_run
from cyclevar.core.runtime.files import save_text

SHEETS = 20
"""Most sample sheets on a page, of all its runs together (one of each run at least)."""

SHEET_SIDE, SHEET_BYTES = 1024, 150_000
"""Largest width or height of a sheet in pixels, and its largest file."""

METRICS = 60
"""Most charts on a page."""

SPEED = ("images_per_second", "data_wait", "memory_gb")
"""Figures of the machine rather than of the model."""

ROWS = {
    "train": "From top to bottom: source, translation, cycle and mere round trip; first of one direction, then of the "
    "other.",
    "tokenizer": "From top to bottom: pictures and their round trips, first of one domain, then of the other.",
    "backbone": "Pictures drawn from nothing, one row a domain.",
}
"""What the rows of a sample sheet are, by stage."""


@dataclass(frozen=True)
class Sheet:
    """A sample sheet: ``uri`` holds the picture itself."""

    step: int
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Values:
    """One row of a table: a value for each run, and which of them are marked."""

    name: str
    values: Sequence[str]
    marked: Sequence[bool]
    default: str = ""

    @property
    def differ(self) -> bool:
        return len(set(self.values)) > 1


@dataclass(frozen=True)
class Judgement:
    """The evaluation of one direction: a row for each run and each set of pictures."""

    name: str
    headings: Sequence[str]
    rows: Sequence[tuple[int, str, Sequence[str]]]


def write_report(runs: Sequence[Path], out: Path) -> None:
    """Write the report of one run, or the comparison of several, to the file ``out``.

    Raises:
        ConfigError: a folder is no run, or its settings cannot be read.
        CheckpointError: the file cannot be written.
    """
    save_text(out, render([read_run(path) for path in runs]))


def render(records: Sequence[Record]) -> str:
    """The page as HTML; with several records it compares them."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    several = len(records) > 1
    notes = [f"{record.name}: {note}" if several else note for record in records for note in record.notes]
    share = max(1, SHEETS // len(records))
    sheets = [_sheets(record, share, notes) for record in records]
    settings = _settings(records)
    names = list(dict.fromkeys(name for record in records for name in record.curves))
    if len(names) > METRICS:
        notes.append(
            f"{len(names) - METRICS} of {len(names)} figures are not drawn: {', '.join(names[METRICS:])[:200]}"
        )
    return environment.get_template("page.html").render(
        title=" · ".join(record.name for record in records),
        several=several,
        records=records,
        notes=notes,
        sheets=sheets,
        rows=[ROWS[record.stage] for record in records],
        judgements=_judgements(records, notes),
        judged=[_circumstances(record) for record in records],
        charts=_charts(records, names[:METRICS]),
        figures=_figures(records, names),
        settings=[row for row in settings if (row.differ if several else any(row.marked))],
        other_settings=[row for row in settings if not (row.differ if several else any(row.marked))],
        facts=_table([record.facts for record in records]),
        machine=_table([record.machine for record in records]),
    )


def _sheets(record: Record, most: int, notes: list[str]) -> list[Sheet]:
    """At most so many sheets, evenly over the training, the last one always."""
    there = list(record.sheets)
    if len(there) > most:
        there = [there[-1 - i * (len(there) - 1) // max(most - 1, 1)] for i in reversed(range(most))]
    found, unreadable = [], 0
    for step, path in there:
        try:
            picture = read_picture(path)
        except PictureError:
            unreadable += 1
        else:
            found.append(_sheet(step, picture))
    if unreadable:
        notes.append(f"{record.name}: {unreadable} sample sheets cannot be read.")
    return found


def _sheet(step: int, picture: Image.Image) -> Sheet:
    """The picture as JPEG, as good as fits into `SHEET_BYTES`."""
    picture.thumbnail((SHEET_SIDE, SHEET_SIDE), Image.Resampling.LANCZOS)
    width, height = picture.size
    quality = 90
    while True:
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=quality, subsampling=0)
        if encoded.tell() <= SHEET_BYTES:
            break
        quality -= 15
        if quality < 45:  # a smaller picture is better than a coarse one
            quality, picture = 75, picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)))
    return Sheet(step, "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode(), width, height)


def _settings(records: Sequence[Record]) -> list[Values]:
    """Every setting; marked where it is not the default."""
    names = dict.fromkeys(name for record in records for name in record.settings)
    found = []
    for name in names:
        values = [record.settings.get(name, record.default.get(name)) for record in records]
        defaults = {_shown(record.default.get(name)) for record in records}
        marked = [record.changed(name) if name in record.settings else False for record in records]
        found.append(Values(name, [_shown(value) for value in values], marked, " or ".join(sorted(defaults))))
    return found


def _table(tables: Sequence[Mapping[str, Any]]) -> list[Values]:
    """A row a name, a column a table; the rows that differ are marked."""
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [(name, [str(table.get(name, "–")) for table in tables]) for name in names]
    return [Values(name, values, [len(set(values)) > 1] * len(values)) for name, values in rows]


def _charts(records: Sequence[Record], names: Sequence[str]) -> dict[str, list[Chart]]:
    """The charts by section."""
    sections: dict[str, list[Chart]] = {"Validation": [], "Training": [], "Speed": []}
    for name in names:
        section = "Validation" if name.startswith("validation/") else "Speed" if name in SPEED else "Training"
        curves = [(run, record.curves[name]) for run, record in enumerate(records) if name in record.curves]
        sections[section].append(draw(name, curves))
    return {section: charts for section, charts in sections.items() if charts}


def _figures(records: Sequence[Record], names: Sequence[str]) -> list[Values]:
    """The last value of every figure, those of validation first."""
    last = [{name: f"{curve[-1][1]:.4g}" for name, curve in record.curves.items()} for record in records]
    rows = {row.name: row for row in _table(last)}
    ordered = sorted(names, key=lambda name: not name.startswith("validation/"))
    return [Values(name, rows[name].values, [False] * len(records)) for name in ordered]


def _judgements(records: Sequence[Record], notes: list[str]) -> list[Judgement]:
    """The evaluations, each direction's in one table."""
    found: dict[str, list[tuple[int, str, dict[str, str]]]] = {}
    for number, record in enumerate(records):
        if record.evaluation is None:
            continue
        try:
            for direction in record.evaluation["directions"]:
                rows = found.setdefault(f"{direction['source']} > {direction['target']}", [])
                for row in direction["rows"]:
                    cells = {name: _cell(value) for name, value in row.items() if name != "name"}
                    rows.append((number, str(row["name"]), cells))
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            notes.append(f"{record.name}: evaluation.json lacks what its table needs ({brief(repr(error), 80)}).")
    tables = []
    for name, rows in found.items():
        headings = [h for h in dict.fromkeys(h for *_, cells in rows for h in cells) if any(r[2].get(h) for r in rows)]
        tables.append(Judgement(name, headings, [(n, row, [c.get(h) or "–" for h in headings]) for n, row, c in rows]))
    return tables


def _circumstances(record: Record) -> dict[str, str]:
    """What else an evaluation says, which decides what its figures may be compared with."""
    plain = {name: value for name, value in (record.evaluation or {}).items() if name not in ("directions", "domains")}
    return {name.replace("_", " "): _shown(value) for name, value in plain.items() if value not in (None, [], {})}


def _cell(value: Any) -> str:
    """A figure, with its interval where it has one; empty for none."""
    if isinstance(value, dict):
        star = "*" if value.get("rank_deficient") else ""
        low, high = value.get("low"), value.get("high")
        interval = "" if low is None or high is None else f" [{_cell(low)}, {_cell(high)}]"
        return f"{_cell(value.get('value'))}{star}{interval}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:.4g}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(inner) for inner in value)
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
