"""The table as data and as a page, from hand-made judgements."""

from __future__ import annotations

import json
from typing import Any

from cyclevar.core.reproduce.page import FIGURES, UNTRAINED, markdown, table_facts
from cyclevar.core.reproduce.tables import BASELINE, find_scale, find_table

SCALE = find_scale("tiny")


def judgement(there: float, back: float, seconds: float) -> dict[str, Any]:
    """KID-rt of both directions, plus or minus 1; every other figure 0.5."""

    def row(name: str, kid_rt: float) -> dict[str, Any]:
        other = {figure: {"value": 0.5, "low": None, "high": None} for figure in FIGURES}
        return {"name": name, **other, "kid_rt": {"value": kid_rt, "low": kid_rt - 1, "high": kid_rt + 1}}

    def direction(source: str, target: str, kid_rt: float) -> dict[str, Any]:
        rows = [row("translation", kid_rt), *(row(name, 50) for name in UNTRAINED)]
        return {"source": source, "target": target, "rows": rows, "copy_ratio": 0.4}

    return {
        "directions": [direction("a", "b", there), direction("b", "a", back)],
        "seconds": {"value": seconds, "low": seconds, "high": seconds},
        "data": "emoji 01",
        "split": "test",
        "pictures": {"a": 5, "b": 5},
        "nets": {"features": {"name": "net", "weights_sha256": "0123456789", "reads": "64 px"}},
    }


def test_marks_by_direction_and_time() -> None:
    table = find_table("table3")
    found = {BASELINE: {0: judgement(10, 20, 0.1)}, "serial": {0: judgement(20, 10, 0.3)}}
    facts = table_facts(table, SCALE, found, steps=7)
    assert facts["directions"] == ["a > b", "b > a"]
    quality, speed = facts["claims"]
    assert quality["marks"] == {"a > b": "agrees", "b > a": "disagrees"}
    assert speed["marks"] == {"a > b": "agrees", "b > a": "agrees"}
    assert json.loads(json.dumps(facts)) == facts

    page = markdown(facts, "table3.png")
    lines = page.splitlines()
    assert lines[0] == "# Table 3: serial or parallel, at scale tiny"
    [row] = [line for line in lines if line.startswith("| parallel, one pass") and "10.0 [9.0, 11.0]" in line]
    assert row.endswith("| 0.40 | 48 |")
    assert "| baseline | serial | KID-rt | FID 48 against 82 | agrees | disagrees |" in lines
    assert "![the same pictures, one column a row](table3.png)" in page
    assert "7 steps a row" in page


def test_seeds_are_averaged_and_widen_the_interval() -> None:
    found = {BASELINE: {0: judgement(10, 20, 0.1), 2: judgement(14, 20, 0.2)}, "serial": {0: judgement(13.5, 30, 0.3)}}
    facts = table_facts(find_table("table3"), SCALE, found, steps=7)
    baseline = next(row for row in facts["rows"] if row["name"] == BASELINE)
    there = baseline["directions"]["a > b"]["kid_rt"]
    assert (there["mean"], there["low"], there["high"], there["seeds"]) == (12, 9, 15, 2)
    assert baseline["seeds"] == [0, 2]
    assert facts["claims"][0]["marks"] == {"a > b": "within the interval", "b > a": "agrees"}
    assert "12.0 ± 2.8 [9.0, 15.0]" in markdown(facts, "s.png")


def test_rows_that_were_not_trained_are_shown_as_such() -> None:
    table = find_table("table4")
    found: dict[str, dict[int, Any]] = {row.name: {} for row in table.rows}
    found[BASELINE][1] = judgement(10, 20, 0.1)
    facts = table_facts(table, SCALE, found, steps=7)
    assert {mark for claim in facts["claims"] for mark in claim["marks"].values()} == {"not measured"}
    assert "| last scale alone for both | – | – | – | – | – | – | – | – |" in markdown(facts, "s.png")
