"""ICC profiles of colour spaces with a gamma."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]

# The primaries as columns of XYZ relative to D50, and the gamma.
SPACES: dict[str, tuple[Array, float]] = {
    "Adobe RGB": (
        np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]),
        563 / 256,
    ),
    "Display P3": (
        np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]),
        2.203125,
    ),
    "ProPhoto": (
        np.array([[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.82491]]),
        1.80078125,
    ),
}
D50 = np.array([0.9642, 1.0, 0.8249])


def profile(name: str) -> bytes:
    """An ICC profile, version 2, of three primaries and a gamma."""
    matrix, gamma = SPACES[name]

    def fixed(values: Any) -> bytes:
        return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)

    text = name.encode() + b"\0"
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + fixed(D50),
        **{kind: b"XYZ " + bytes(4) + fixed(matrix[:, i]) for i, kind in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for kind, tag in tags.items():
        padded = tag + bytes(-len(tag) % 4)
        table += kind + struct.pack(">II", offset + len(body), len(tag))
        body += padded
    header = struct.pack(">I4sI4s4s4s", offset + len(body), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(D50) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


@pytest.fixture
def color_profile() -> Callable[[str], bytes]:
    """Makes the ICC profile of a colour space."""
    return profile


@pytest.fixture
def color_spaces() -> dict[str, tuple[Array, float]]:
    """The primaries, as columns of XYZ relative to D50, and the gamma of colour spaces."""
    return SPACES
