"""The table as plain data and as a page: what was measured beside what was published. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cyclevar.core.reproduce.ordering import Measured, Summary, judge, summarise
from cyclevar.core.reproduce.tables import Scale, Table

FIGURES = {
    "kid_rt": ("KID-rt", "{:.1f}"),
    "kid": ("KID", "{:.1f}"),
    "structure_distance": ("structure", "{:.2f}"),
    "pair_distance": ("pair distance", "{:.3f}"),
    "retrieval_at_1": ("retrieval@1", "{:.0%}"),
}
"""Figures of the page, their titles and how they are written; docs/evaluation.md explains them."""

UNTRAINED = ("round trip of source", "round trip of true target")
"""What needs no training, for comparison: the start and the floor."""

Judgements = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Row -> seed -> judgement of a run."""


def table_facts(table: Table, scale: Scale, found: Judgements, *, steps: int) -> dict[str, Any]:
    """Everything that the page says, as plain data for JSON: figures by row and direction, paper, marks, notes."""
    any_one = next((judged for seeds in found.values() for judged in seeds.values()), None)
    directions = [_name(one) for one in any_one["directions"]] if any_one else []
    rows = []
    summaries: dict[tuple[str, str, str], Summary | None] = {}
    for row in table.rows:
        judged = found[row.name]
        figures: dict[str, dict[str, Any]] = {}
        for number, direction in enumerate(directions):
            of_seeds = [one["directions"][number] for one in judged.values()]
            for figure in FIGURES:
                summaries[row.name, figure, direction] = summary = summarise(
                    [_measured(_row(one, "translation")[figure]) for one in of_seeds]
                )
                figures.setdefault(direction, {})[figure] = summary and asdict(summary)
            if of_seeds:
                figures[direction]["copy_ratio"] = [one["copy_ratio"] for one in of_seeds]
        seconds = summarise([_measured(one["seconds"]) for one in judged.values()])
        for direction in directions:
            summaries[row.name, "seconds", direction] = seconds
        rows.append(
            {
                "name": row.name,
                "label": row.label,
                "changes": dict(row.changes),
                "seeds": list(judged),
                "directions": figures,
                "seconds": seconds and asdict(seconds),
                "paper": {"fid": row.fid, "seconds": row.seconds},
            }
        )
    claims = [
        {
            **asdict(claim),
            "marks": {
                direction: judge(*(summaries[name, claim.figure, direction] for name in (claim.better, claim.worse)))
                for direction in directions
            },
        }
        for claim in table.claims
    ]
    return {
        "table": table.name,
        "title": table.title,
        "scale": scale.name,
        "steps": steps,
        "settings": dict(scale.settings),
        "directions": directions,
        "rows": rows,
        "untrained": _untrained(any_one) if any_one else {},
        "claims": claims,
        "judged_with": {name: any_one[name] for name in ("data", "split", "pictures", "nets")} if any_one else {},
        "shows": scale.shows,
        "notes": list(table.notes),
    }


def markdown(facts: Mapping[str, Any], sheet: str) -> str:
    """The page: for each direction a table of figures, then the claims with their marks, then what to keep in mind."""
    lines = [
        f"# {facts['title']}, at scale {facts['scale']}",
        "",
        f"{facts['steps']} steps a row, all rows from the same weights, with the same pictures and seeds. Mean over "
        "the seeds; in brackets from the lowest to the highest end of the seeds' 95 % intervals; behind ± the standard "
        "deviation of the seeds. KID is times 1000, lower is better; retrieval@1 higher.",
    ]
    for direction in facts["directions"]:
        titles = [title for title, _ in FIGURES.values()]
        lines += ["", f"## {direction}", "", *_head(["row", "seeds", *titles, "copy ratio", "paper: FID"])]
        for row in facts["rows"]:
            figures = row["directions"].get(direction, {})
            cells = [_summary(figures.get(name), form) for name, (_, form) in FIGURES.items()]
            copies = ", ".join("–" if one is None else f"{one:.2f}" for one in figures.get("copy_ratio", ()))
            seeds = ", ".join(map(str, row["seeds"])) or "–"
            lines.append(_line([row["label"], seeds, *cells, copies or "–", _number(row["paper"]["fid"])]))
        for name, figures in facts["untrained"].get(direction, {}).items():
            cells = [_summary(figures.get(figure), form) for figure, (_, form) in FIGURES.items()]
            lines.append(_line([f"*{name}*", "", *cells, "", ""]))
    lines += ["", "## Time of a translation, one picture at a time", "", *_head(["row", "seconds", "paper: seconds"])]
    lines += [
        _line([row["label"], _summary(row["seconds"], "{:.3f}"), _number(row["paper"]["seconds"])])
        for row in facts["rows"]
    ]
    lines += [
        "",
        "Rows were timed one after the other; in brackets the middle 80 % of the pictures. Other work on the machine "
        "shows.",
    ]
    lines += ["", "## The published order", ""]
    lines += _head(["the paper has", "below", "in", "why", *facts["directions"]])
    for claim in facts["claims"]:
        figure = FIGURES[claim["figure"]][0] if claim["figure"] in FIGURES else claim["figure"]
        marks = [claim["marks"][direction] for direction in facts["directions"]]
        lines.append(_line([claim["better"], claim["worse"], figure, claim["source"], *marks]))
    lines += [
        "",
        "*agrees*, *disagrees*: the intervals of the two rows do not touch. *within the interval*: they do, so nothing "
        "is claimed. With one seed the interval knows nothing of how much another seed would change. KID-rt stands for "
        "the paper's FID: another figure, other features, other pictures; only the order can be compared. Where the "
        "copy ratio is under 0.2 a row hardly leaves its source: hold its KID-rt against that of the mere round trip.",
        "",
        "## What this can show",
        "",
        facts["shows"],
        "",
        *(f"- {note}" for note in facts["notes"]),
        "",
        f"![the same pictures, one column a row]({sheet})",
        "",
        *_circumstances(facts["judged_with"]),
    ]
    return "\n".join(lines)


def _untrained(judged: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        _name(direction): {
            name: {
                figure: asdict(only)
                for figure in FIGURES
                if (measured := _row(direction, name).get(figure)) and (only := summarise([_measured(measured)]))
            }
            for name in UNTRAINED
        }
        for direction in judged["directions"]
    }


def _row(direction: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(row for row in direction["rows"] if row["name"] == name)
    return found


def _name(direction: Mapping[str, Any]) -> str:
    return f"{direction['source']} > {direction['target']}"


def _measured(figure: Mapping[str, Any]) -> Measured:
    """A figure without an interval gets that of its value alone."""
    value = float(figure["value"])
    low, high = (value if figure[end] is None else float(figure[end]) for end in ("low", "high"))
    return Measured(value, low, high)


def _summary(summary: Mapping[str, Any] | None, form: str) -> str:
    if summary is None:
        return "–"
    mean, low, high = (form.format(summary[name]) for name in ("mean", "low", "high"))
    spread = "" if summary["spread"] is None else f" ± {form.format(summary['spread'])}"
    return f"{mean}{spread} [{low}, {high}]" if low != high else f"{mean}{spread}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), "|" + "---|" * len(titles)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _circumstances(judged_with: Mapping[str, Any]) -> list[str]:
    if not judged_with:
        return []
    counts = ", ".join(f"{count} of {name}" for name, count in judged_with["pictures"].items())
    nets = "; ".join(f"{use} by {net['name']} {net['weights_sha256'][:8]}" for use, net in judged_with["nets"].items())
    return [f"Judged on the {judged_with['split']} part of {judged_with['data']}: {counts}; {nets}.", ""]
