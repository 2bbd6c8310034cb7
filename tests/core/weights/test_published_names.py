"""Name tables: published names to ours and back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.errors import CheckpointError
from cyclevar.core.weights.name_table import NameTable, check_keys, strip_prefix
from cyclevar.core.weights.published_names import scale_causal_bias, scale_index

TABLE = NameTable(
    {"weight": "w", "joined": ("q", "k", "v"), "scalar": "s"}, {"mask": lambda: torch.ones(2)}, [("trainer", "part")]
)


def ours() -> dict[str, Tensor]:
    return {"weight": torch.randn(2, 3), "joined": torch.randn(6, 4), "scalar": torch.tensor(1.0)}


def test_there_and_back() -> None:
    state = ours()
    published = TABLE.to_published(state)
    assert {name: tuple(t.shape) for name, t in published.items()} == {
        "w": (2, 3),
        "q": (2, 4),
        "k": (2, 4),
        "v": (2, 4),
        "s": (),
        "mask": (2,),
    }
    assert torch.equal(published["k"], state["joined"][2:4])
    back = TABLE.to_ours(published, state, what="it")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_derived_buffers_are_written_and_not_asked_for() -> None:
    published = TABLE.to_published(ours())
    del published["mask"]
    assert TABLE.to_ours(published, ours(), what="it").keys() == ours().keys()
    published["mask"] = torch.zeros(99)
    assert "mask" not in TABLE.to_ours(published, ours(), what="it")


def test_what_does_not_fit_is_named() -> None:
    published = TABLE.to_published(ours())
    del published["s"]
    published["extra"] = torch.zeros(1)
    published["q"] = torch.zeros(3, 4)
    published["w"] = torch.zeros(2, 4)
    with pytest.raises(CheckpointError) as caught:
        TABLE.to_ours(published, ours(), what="file.pth")
    message = str(caught.value)
    assert message.startswith("file.pth does not fit the model: missing keys: s; unknown keys: extra; wrong shapes: ")
    assert "w has [2, 4], expected [2, 3]" in message
    assert "q has [3, 4], expected [2, 4]" in message


def test_long_lists_are_cut() -> None:
    check_keys("it", [], [], [])
    with pytest.raises(CheckpointError, match="missing keys: a, b, c, d and 2 more; check that"):
        check_keys("it", list("abcdef"), [], [])


def test_prefixes() -> None:
    state = {"a.x": torch.zeros(1), "a.b.y": torch.ones(1), "ab.z": torch.ones(1)}
    assert strip_prefix(state, "a.").keys() == {"x", "b.y"}


def test_the_published_buffers() -> None:
    assert scale_index((1, 4, 2)).tolist() == [[0, 1, 1, 1, 1, 2, 2]]
    bias = scale_causal_bias((1, 2))
    assert bias.shape == (1, 1, 3, 3)
    assert_close(bias[0, 0], torch.tensor([[0, -math.inf, -math.inf], [0, 0, 0], [0, 0, 0]]))


def test_another_spelling_stale_names_and_tensors_to_be_fitted() -> None:
    table = NameTable(
        {"weight": "w.conv.weight", "rows": "r"},
        aliases={"w.weight": "w.conv.weight"},
        stale=("mask",),
        fits={"r": lambda tensor, shape: tensor[: shape[0]]},
    )
    expected = {"weight": torch.zeros(2), "rows": torch.zeros(3, 4)}
    rows = torch.randn(5, 4)
    for name in ("w.weight", "w.conv.weight"):
        found = table.to_ours({name: torch.ones(2), "r": rows, "mask": torch.ones(1)}, expected, what="it")
        assert torch.equal(found["weight"], torch.ones(2))
        assert torch.equal(found["rows"], rows[:3])
    assert table.to_published(expected).keys() == {"w.conv.weight", "r"}
    with pytest.raises(CheckpointError, match="missing keys: r; unknown keys: other"):
        table.to_ours({"w.weight": torch.ones(2), "other": torch.ones(1)}, expected, what="it")
