"""The published comparisons as settings."""

from __future__ import annotations

import pytest

from cyclevar.core.config.base import flat
from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.reproduce.tables import BASELINE, SCALES, TABLES, find_scale, find_table


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_rows_differ_in_their_own_settings_alone(table, scale) -> None:  # type: ignore[no-untyped-def]
    baseline = next(row for row in table.rows if row.name == BASELINE)
    common = flat(scale.config(baseline, 3).model_dump(mode="json"))
    for row in table.rows:
        settings = flat(scale.config(row, 3).model_dump(mode="json"))
        differ = {name: value for name, value in settings.items() if value != common[name]}
        assert differ == {f"translation.{name}": value for name, value in row.changes.items()}
        assert settings["seed"] == 3
        assert settings["loop.steps"] == scale.steps
        assert bool(row.changes) == (row is not baseline)


def test_the_baseline_is_the_papers_setting() -> None:
    for table in TABLES.values():
        row = next(row for row in table.rows if row.name == BASELINE)
        chosen = SCALES["tiny"].config(row, 0).translation
        assert (chosen.mode, chosen.context, chosen.output) == ("parallel", "multi", "multi")
        assert (chosen.temperature, chosen.gumbel) == (2.0, False)
        assert chosen == TranslationConfig()


def test_a_name_means_the_same_in_every_table() -> None:
    seen: dict[str, object] = {}
    for table in TABLES.values():
        names = [row.name for row in table.rows]
        assert len(set(names)) == len(names)
        for row in table.rows:
            assert seen.setdefault(row.name, dict(row.changes)) == dict(row.changes)
        for claim in table.claims:
            assert {claim.better, claim.worse} <= set(names)
            assert claim.figure in ("kid_rt", "seconds")


def test_published_figures() -> None:
    """Those that the project's notes hold, and the claims they carry."""
    rows = {row.name: row for row in TABLES["table3"].rows}
    assert (rows["serial"].fid, rows[BASELINE].fid, rows[BASELINE].seconds) == (82, 48, 0.08)
    for table in TABLES.values():
        by_name = {row.name: row for row in table.rows}
        for claim in table.claims:
            better, worse = by_name[claim.better], by_name[claim.worse]
            if better.fid is not None and worse.fid is not None:
                assert better.fid < worse.fid


def test_what_is_wrong_is_told() -> None:
    with pytest.raises(UnknownNameError, match=r"no table named 'tabel3'.*did you mean 'table3'"):
        find_table("tabel3")
    with pytest.raises(UnknownNameError, match=r"no scale named 'tinny'.*did you mean 'tiny'"):
        find_scale("tinny")
    table, scale = find_table("table3"), find_scale("tiny")
    with pytest.raises(UnknownNameError, match=r"no row of table3 named 'seriel'.*did you mean 'serial'"):
        table.choose(["baseline", "seriel"])
    assert [row.name for row in table.choose([])] == ["serial", BASELINE]
    assert [row.name for row in table.choose([BASELINE])] == [BASELINE]
    row = table.rows[0]
    with pytest.raises(ConfigError, match=f"--steps is {scale.least - 1}; expected {scale.least} or more"):
        scale.config(row, 0, scale.least - 1)
    assert scale.config(row, 0, scale.least).loop.steps == scale.least
    with pytest.raises(ConfigError, match="seed is -1"):
        scale.config(row, -1)
