"""The page: whole, self-contained, escaped, bounded, and telling runs apart."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.report.page import METRICS, SHEET_BYTES, SHEETS, render, write_report
from cyclevar.core.report.run_record import read_run

EVALUATION = {
    "directions": [
        {
            "source": "noto",
            "target": "fluent",
            "rows": [
                {"name": "translation", "kid": {"value": 12.5, "low": 11.0, "high": 14.0}, "fid": None},
                {"name": "true target", "kid": None, "fid": {"value": 90.25, "rank_deficient": True}},
            ],
            "copy_ratio": 0.5,
        }
    ],
    "feature_net": "efficientnet_lite0",
    "warnings": ["compare within this table only"],
}

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that every element is closed where it should be; collects elements, addresses and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.elements = list[str](), list[tuple[str, dict[str, str | None]]]()
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(*runs: Path) -> Page:
    return Page(render([read_run(run) for run in runs]))


LINES = tuple({"step": step, "loss": 1 / step, "images_per_second": 2.0} for step in range(1, 100))


def test_a_run_on_one_page(make_run: Any) -> None:
    starts = json.dumps({"step": 0, "time": "2026-01-02T03:04:05+00:00", "machine": {"processor": "Fast 9"}})
    run = make_run(
        config=TrainConfig(seed=7),
        lines=(*LINES, {"step": 99, "validation/kid": 8.25}),
        sheets=(50, 99),
        starts_jsonl=starts,
        facts_yaml="data: emoji 0123",
        evaluation_json=json.dumps(EVALUATION),
    )
    found = page(run)
    text = " ".join(found.text.split())
    for words in (
        "step 99 of 3000",
        "after 50 steps (1 of 2)",
        "noto > fluent",
        "12.5 [11, 14]",
        "90.25*",
        "compare within this table only",
        "validation/kid 8.25 at 99",
        "cyclevar train --set seed=7",
        "emoji 0123",
        "Fast 9",
        "started 2026-01-02T03:04:05+00:00",
        "Those that are not the default. ",
    ):
        assert words in text
    assert len(found.all("img")) == 2
    assert len([path for path in found.all("path") if path["class"] == "faint s0"]) == 2  # loss and images_per_second
    assert re.search(
        r'<th><code>seed</code></th><td class="marked">7</td><td class="quiet">0</td>', render([read_run(run)])
    )


def test_the_page_needs_nothing_beside_it(make_run: Any) -> None:
    run = make_run(lines=LINES, sheets=(1, 2, 3))
    found = page(run, make_run("second"))
    for tag, attributes in found.elements:
        for name in ("src", "href", "srcset", "xlink:href", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:image/jpeg;base64,"), f"{tag} loads {value}"
    html = render([read_run(run)])
    assert "url(" not in html
    assert "@import" not in html
    assert not re.search(r"https?://", html)


def test_the_sheets_are_there_without_the_script(make_run: Any) -> None:
    found = page(make_run(sheets=(1, 2, 3)))
    assert [attributes.get("hidden") for attributes in found.all("figure")] == [None] * 3
    assert found.all("input") == []  # the slider comes with the script


def test_what_comes_from_outside_is_escaped(make_run: Any) -> None:
    evil = "<script>alert(1)</script>"
    run = make_run(
        config=TrainConfig(weights=evil),
        lines=({"step": 1, evil: 1.0},),
        facts_yaml=json.dumps({"data": evil}),
        evaluation_json=json.dumps(EVALUATION | {"feature_net": evil}),
    )
    found = page(run)
    assert len(found.all("script")) == 1
    assert found.text.count(evil) == 5  # setting, chart, command, fact, feature net


def test_the_page_is_bounded(make_run: Any, tmp_path: Path) -> None:
    names = [f"figure_{number}" for number in range(METRICS + 5)]
    lines = tuple({"step": step} | dict.fromkeys(names, float(step * 7919 % 101)) for step in range(300))
    run = make_run(lines=lines)
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1200, 3), dtype=np.uint8)
    for step in range(3 * SHEETS):
        Image.fromarray(noise[:16, :16] if step % 9 else noise).save(run / "samples" / f"step-{step:08d}.png")
    found = page(run)
    pictures = [base64.b64decode((attributes["src"] or "").partition(",")[2]) for attributes in found.all("img")]
    assert len(pictures) == SHEETS
    assert max(map(len, pictures)) <= SHEET_BYTES
    assert f"after {3 * SHEETS - 1} steps" in found.text  # the newest one always
    assert "5 of 65 figures are not drawn" in found.text
    write_report([run], tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 6e6


def test_a_sheet_shows_its_picture(make_run: Any) -> None:
    found = page(make_run(sheets=(200,)))
    [attributes] = found.all("img")
    encoded = base64.b64decode((attributes["src"] or "").partition(",")[2])
    with Image.open(io.BytesIO(encoded)) as picture:
        assert (picture.size, attributes["width"], attributes["height"]) == ((24, 16), "24", "16")
        assert np.abs(np.asarray(picture).astype(int) - (200, 0, 0)).max() < 8


def test_damage_is_told_and_the_rest_is_shown(make_run: Any) -> None:
    rows_missing = json.dumps({"directions": [{"source": "a", "target": "b"}]})
    run = make_run(sheets=(1, 2), metrics_jsonl='{"step": 1, "loss": 2}\nbroken\n', evaluation_json=rows_missing)
    (run / "samples" / "step-00000002.png").write_bytes(b"no picture")
    text = page(run).text
    assert "1 damaged line left out" in text
    assert "1 sample sheets cannot be read" in text
    assert "evaluation.json lacks what its table needs" in text
    assert "after 1 steps (1 of 1)" in text


def test_a_run_that_just_began_has_a_page(make_run: Any) -> None:
    text = page(make_run()).text
    assert "No figures were logged yet." in text
    assert "No sample sheets yet." in text


def test_several_runs_are_told_apart(make_run: Any) -> None:
    first = make_run("one", TrainConfig(seed=1, batch_size=2), LINES, (1,), evaluation_json=json.dumps(EVALUATION))
    second = make_run("two", TrainConfig(seed=2, batch_size=2), ({"step": 5, "loss": 3.0, "auc": 0.5},))
    found = page(first, second)
    text = " ".join(found.text.split())
    html = render([read_run(first), read_run(second)])
    assert (
        '<th><code>seed</code></th><td class="marked">1</td><td class="marked">2</td><td class="quiet">0</td>' in html
    )
    settings = html[html.index("<h2>Settings</h2>") : html.index("<details><summary>All other settings")]
    assert "batch_size" not in settings  # the same in both
    assert "one: translation" in text
    assert {path["class"] for path in found.all("path")} == {"faint s0", "s0", "s1"}
    assert len([svg for svg in found.all("svg") if svg.get("role") == "img"]) == 3  # loss is one chart for both
    assert re.search(r"<code>auc</code></th><td[^>]*>–</td><td[^>]*>0.5</td>", html)


def test_runs_of_two_kinds_can_be_compared(make_run: Any) -> None:
    text = page(make_run("one"), make_run("two", PretrainConfig(stage="tokenizer"))).text
    assert "cyclevar pretrain" in text
    assert "From top to bottom" not in text  # there is nothing to explain


def test_runs_of_one_name_keep_their_own_sheets(make_run: Any) -> None:
    first = make_run("a/run", sheets=(1,))
    second = make_run("b/run", PretrainConfig(stage="tokenizer"), sheets=(2,))
    text = " ".join(page(first, second).text.split())
    assert "source, translation, cycle" in text
    assert "pictures and their round trips" in text
