"""What every part promises, of whatever kind."""

from __future__ import annotations

import pytest

from cyclevar.core.config.base import Settings
from cyclevar.core.contract.selection import chosen_entries
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.extension.registry import Entry


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test once for each part."""
    entries = chosen_entries(metafunc.config.getoption("--cyclevar-contract", None))
    metafunc.parametrize("entry", entries, ids=[f"{entry.kind}-{entry.name}" for entry in entries])


def test_its_summary_is_a_line(entry: Entry) -> None:
    assert entry.summary.strip(), "`cyclevar plugins` shows the summary of every part"
    assert "\n" not in entry.summary


def test_it_can_be_imported(entry: Entry) -> None:
    assert callable(entry.load())


def test_its_settings_have_defaults(entry: Entry) -> None:
    config = entry.load_config()
    if config is None:
        return
    assert issubclass(config, Settings), "settings derive from cyclevar.core.config.base.Settings"
    if entry.kind in ("backbone", "generator"):
        presets = config.presets()  # type: ignore[attr-defined]
        assert presets, "a family has a preset at least"
        assert set(entry.presets) == set(presets), "`presets=` of registry.add are those of its settings"
    else:
        assert config()


def test_it_is_found_by_its_name(entry: Entry) -> None:
    assert get_manager().registry.get(entry.kind, entry.name) == entry
