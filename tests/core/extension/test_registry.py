"""Parts are described, found by name, and imported only when asked for."""

from __future__ import annotations

import collections
import sys

import pytest

from cyclevar.core.errors import PluginError, UnknownNameError
from cyclevar.core.extension.registry import Entry, Registry


@pytest.fixture
def registry() -> Registry:
    registry = Registry("plugin one (one 1.0)")
    registry.add("backbone", "var", "colorsys:rgb_to_hsv", summary="a family", config=dict, presets=["tiny", "d16"])
    registry.add("quantizer", "index", collections.OrderedDict, summary="a codebook", owner="somebody")
    return registry


def test_an_entry_describes_its_part(registry: Registry) -> None:
    assert registry.get("backbone", "var") == Entry(
        "backbone", "var", "a family", "plugin one (one 1.0)", "colorsys:rgb_to_hsv", dict, ("tiny", "d16")
    )
    assert registry.get("quantizer", "index").owner == "somebody"
    assert registry.names("backbone") == ("var",)
    assert [entry.name for entry in registry.entries()] == ["var", "index"]
    assert [entry.name for entry in registry.entries("quantizer")] == ["index"]


def test_a_reference_is_imported_when_it_is_loaded(registry: Registry) -> None:
    sys.modules.pop("colorsys", None)
    entry = registry.get("backbone", "var")
    assert "colorsys" not in sys.modules
    assert entry.load()(1, 1, 1) == (0.0, 0.0, 1)
    assert entry.load_config() is dict
    assert registry.get("quantizer", "index").load() is collections.OrderedDict
    assert registry.get("quantizer", "index").load_config() is None


@pytest.mark.parametrize("reference", ["no_such_module:build", "math:no_such_name", "math", "math:pi", ":x", ""])
def test_a_reference_that_leads_nowhere_names_its_owner(registry: Registry, reference: str) -> None:
    registry.add("loss", "broken", reference, summary="")
    with pytest.raises(PluginError, match=r"the loss 'broken' of plugin one \(one 1\.0\)"):
        registry.get("loss", "broken").load()


def test_an_unknown_name_offers_the_nearest_and_lists_all(registry: Registry) -> None:
    with pytest.raises(UnknownNameError, match=r"no backbone named 'vaar'; expected one of var; did you mean 'var'\?"):
        registry.get("backbone", "vaar")


def test_an_unknown_kind_offers_the_nearest(registry: Registry) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'backbone'"):
        registry.add("bakbone", "x", dict, summary="")
    with pytest.raises(UnknownNameError, match="did you mean 'loss'"):
        registry.get("losss", "x")


def test_a_taken_name_names_both_owners(registry: Registry) -> None:
    with pytest.raises(PluginError, match=r"of somebody else is already registered by plugin one \(one 1\.0\)"):
        registry.add("backbone", "var", dict, summary="", owner="somebody else")


def test_merging_takes_all_or_nothing(registry: Registry) -> None:
    other = Registry("plugin two (two 2.0)")
    other.add("loss", "fine", dict, summary="")
    other.add("backbone", "var", dict, summary="")
    with pytest.raises(PluginError, match=r"plugin two \(two 2\.0\) is already registered by plugin one \(one 1\.0\)"):
        registry.merge(other)
    assert registry.names("loss") == ()
    third = Registry("plugin three")
    third.add("loss", "fine", dict, summary="")
    registry.merge(third)
    assert registry.get("loss", "fine").owner == "plugin three"


def test_the_same_name_may_stand_in_two_kinds(registry: Registry) -> None:
    registry.add("loss", "var", dict, summary="")
    assert registry.get("loss", "var").kind == "loss"
