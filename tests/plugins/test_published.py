"""Every name, shape and dtype of the published weights, against the full lists and against hashes that ship."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from cyclevar.core.models.model import build

UNFOLDED: dict[str, Any] = {
    "tokenizer": {"bits": 32, "patch": 16, "multipliers": [1, 2, 4, 4, 4]},
    "backbone": {"spatial_patchify": False},
}
"""What the largest Infinity is with the tokenizer of the others."""

LISTS = [
    *[("var", preset, {}, "backbone", f"var_{preset}") for preset in ("d16", "d20", "d24", "d30", "d36")],
    ("var", "d16", {}, "tokenizer", "var_vae_ch160v4096z32"),
    *[("flexvar", preset, {}, "backbone", f"flexvar_{preset}") for preset in ("d16", "d20", "d24")],
    ("flexvar", "d16", {}, "tokenizer", "flexvae"),
    *[
        ("infinity", preset, {}, "backbone", f"infinity_{preset}")
        for preset in ("2b", "8b", "layer12", "layer16", "layer24", "layer32", "layer40", "layer48")
    ],
    ("infinity", "8b", UNFOLDED, "backbone", "infinity_8b_if_d32_no_patchify"),
    *[
        ("infinity", "layer12", {"tokenizer": {"bits": int(name[1:3])}}, "tokenizer", f"infinity_vae_{name}")
        for name in ("d16", "d24", "d32", "d32reg", "d64")
    ],
    ("infinity", "8b", {}, "tokenizer", "infinity_vae_d14_patch8"),
]
each_list = pytest.mark.parametrize(
    ("family", "preset", "overrides", "part", "name"), LISTS, ids=[name for *_, name in LISTS]
)


def exported(family: str, preset: str, overrides: dict[str, Any], part: str) -> dict[str, list[Any]]:
    tensors = build(family, preset, initialize=False, **overrides).export_official()[part]
    return {name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for name, tensor in tensors.items()}


@pytest.mark.golden
@each_list
def test_as_listed(golden: Path, family: str, preset: str, overrides: dict[str, Any], part: str, name: str) -> None:
    expected = json.loads((golden.parent / "keys" / f"{name}.json").read_text())
    assert exported(family, preset, overrides, part) == expected


@each_list
def test_as_hashed(family: str, preset: str, overrides: dict[str, Any], part: str, name: str) -> None:
    known = json.loads((Path(__file__).parent / family / "data" / "small.json").read_text())["names"]
    if name not in known:
        pytest.skip("only in the full list")
    listed = json.dumps(exported(family, preset, overrides, part), sort_keys=True)
    assert hashlib.sha256(listed.encode()).hexdigest() == known[name]


@pytest.mark.parametrize("preset", ["2b", "8b"])
def test_both_tokenizers_of_infinity_have_a_stride_of_16(preset: str) -> None:
    assert build("infinity", preset, initialize=False).tokenizer.stride == 16
