"""The page: whole, self-contained, escaped, bounded, and telling runs apart."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.errors import ConfigError
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


DEEP = "[" * 100_000
DIGITS = "9" * 5000
DAMAGED = {
    "facts_yaml": [
        "[",
        "- 1",
        "3",
        "a: {b: {c: 1}}",
        "1: 2",
        "a: !!python/object:os.system x",
        "a: 2020-99-99",
        DIGITS,
    ],
    "metrics_jsonl": [
        DEEP,
        '{"step": 1e3, "a": 1}',
        '{"step": -1, "a": 1}',
        f'{{"step": {DIGITS}, "a": 1}}',
        f'{{"step": 1{"0" * 400}, "a": 1}}',
        f'{{"step": 1, "a": 1{"0" * 400}}}',
        '{"step": 1, "a": 1e308}\n{"step": 2, "a": -1e308}',
        '{"step": 1, "a": 1e-310}\n{"step": 2, "a": 2e-310}',
        '{"step": 1, "a": Infinity, "b": null, "c": [1], "d": {"e": 1}, "": 2, "loss": true}',
        "\x00\x01",
    ],
    "starts_jsonl": [
        '{"step": 0}',
        '{"step": 0, "time": 3, "machine": 7}',
        '{"step": 0, "machine": {"device": 3, "a": [1]}}',
        '{"step": 0, "machine": {"device": {"b": null}}}',
        DEEP,
    ],
    "evaluation_json": [
        DEEP,
        DIGITS,
        "null",
        '{"directions": 3}',
        '{"directions": [3]}',
        '{"directions": [{"source": 1, "target": null, "rows": 3}]}',
        '{"directions": [{"source": "a", "target": "b", "rows": [3]}]}',
        '{"directions": [{"source": "a", "target": "b", "rows": [{"name": 3, "kid": [1]}]}]}',
        f'{{"directions": [{{"source": "a", "target": "b", "rows": [{{"name": "x", "kid": 1{"0" * 400}}}]}}]}}',
        '{"directions": [{"source": "a", "target": "b", "rows": [{"name": "x", "kid": {"value": {"value": []}}}]}]}',
        '{"directions": [], "seed": {"a": [{}]}, "limit": NaN}',
    ],
    "config_yaml": [
        "stage: [1]",
        "stage: translator",
        "stage: tokenizer\ntokenizer: 3",
        "loop: 3",
        "loop: {steps: many}",
        "loop: {1: 2, ~: 3}",
        "seed: 2020-01-01",
        "data: {source: [a, {b: c}]}",
    ],
}
"""File of a run -> contents that no run writes."""


@pytest.mark.parametrize(("file", "content"), [(file, text) for file, texts in DAMAGED.items() for text in texts])
def test_whatever_a_file_holds_there_is_a_page(make_run: Any, file: str, content: str) -> None:
    lines = ({"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0})
    run = make_run(lines=lines, **{"evaluation_json": '{"directions": []}', file: content})
    found = page(run, make_run("other", lines=lines))
    assert "last 1 at 2" in found.text


def test_what_cannot_be_read_is_noted(make_run: Any) -> None:
    run = make_run(starts_jsonl="[]\n3\n", metrics_jsonl=DEEP, evaluation_json=DEEP, facts_yaml="[")
    assert read_run(run).notes == [
        "metrics.jsonl: 1 damaged line left out.",
        "facts.yaml cannot be read.",
        "starts.jsonl: 2 damaged lines left out.",
        "evaluation.json is not what `cyclevar evaluate --json` prints.",
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "folder", "device"]
)
def test_what_is_no_file_is_not_read(make_run: Any, make: Callable[[Path], None]) -> None:
    """A pipe would be waited for, a device read for ever."""
    run = make_run(lines=({"step": 1, "loss": 2.0},))
    names = ("metrics.jsonl", "starts.jsonl", "facts.yaml", "evaluation.json", "samples/step-00000005.png")
    (run / "metrics.jsonl").unlink()
    for name in names:
        make(run / name)
    record = read_run(run)
    assert len(record.notes) == 4
    assert page(run).text
    (run / "config.yaml").unlink()
    make(run / "config.yaml")
    with pytest.raises(ConfigError, match="is not a run"):
        read_run(run)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(200)])
def test_damaged_sheets_are_counted(make_run: Any, content: bytes) -> None:
    run = make_run(sheets=(1, 2, 3))
    whole = (run / "samples" / "step-00000001.png").read_bytes()
    (run / "samples" / "step-00000001.png").write_bytes(whole[:-30])
    (run / "samples" / "step-00000002.png").write_bytes(content)
    (run / "samples" / f"step-{'7' * 60}.png").write_bytes(whole)
    assert "2 sample sheets cannot be read" in page(run).text


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
