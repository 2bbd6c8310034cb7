"""Settings that make the contract quick on our own parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

SMALLER = {"backbone": {"depth": 2, "width": 64, "heads": 2}, "schedule": "1-2-3-4"}


@pytest.fixture(scope="session")
def cyclevar_contract_settings(small_clip: dict[str, str]) -> Callable[[str, str], Mapping[str, Any]]:
    """Families smaller than their preset `tiny`, a small code book, and a file for what needs one."""
    special: dict[tuple[str, str], Mapping[str, Any]] = {
        **{("backbone", family): SMALLER for family in ("var", "infinity", "flexvar")},
        ("discriminator", "clip"): small_clip,
        ("quantizer", "index"): {"size": 64},
    }
    return lambda kind, name: special.get((kind, name), {})
