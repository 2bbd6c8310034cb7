"""Which attention kernels run and why: on this processor, and on an H100 as xformers itself would choose them."""

from __future__ import annotations

import pytest
import torch

from cyclevar.core.attention import xformers as xformers_attention
from cyclevar.core.diagnostics import attention_report as module
from cyclevar.core.diagnostics.attention_report import AttentionRow, attention_report, torch_kernel
from cyclevar.core.errors import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CALLS = [
    ("inference", "forward"),
    ("training", "forward"),
    ("training", "backward"),
    ("serial step", "forward"),
    ("text (Infinity)", "forward"),
    ("text (Infinity)", "backward"),
]


def calls(rows: tuple[AttentionRow, ...]) -> list[tuple[str, str]]:
    return [(row.what, row.direction) for row in rows]


def test_on_the_processor_torch_computes() -> None:
    rows = attention_report(CPU, torch.float32, 64)
    assert calls(rows) == CALLS
    assert {(row.operator, row.why) for row in rows[:4]} == {("sdpa, flash", "xformers does not run on cpu")}
    assert "mask" in rows[-1].why


def test_a_backend_that_was_asked_for() -> None:
    assert {row.why for row in attention_report(CPU, torch.float32, 64, "dense")[:4]} == {"asked for"}
    with pytest.raises(ConfigError, match="does not run on cpu"):
        attention_report(CPU, torch.float32, 64, "xformers")


def test_what_the_processor_has_no_fast_kernel_for_is_said() -> None:
    assert torch_kernel(CPU, torch.float32, 64, True, False) == "flash"
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert torch_kernel(CPU, torch.float32, 64, True, False) == "math"


class TestOnAGpu:
    """As if there were an H100 on which the trials go well."""

    @pytest.fixture(autouse=True)
    def _h100(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("xformers")
        if torch.version.cuda is None:
            pytest.skip("this torch is built without CUDA")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
        monkeypatch.setattr(module, "choose_backend", lambda device, requested: ("xformers", "tried, and it works"))
        monkeypatch.setattr(module, "torch_kernel", lambda *kind: "efficient")
        monkeypatch.setattr(
            xformers_attention, "form_problem", lambda *kind: xformers_attention.operators(*kind).problem
        )
        xformers_attention.operators.cache_clear()
        yield
        xformers_attention.operators.cache_clear()

    def test_in_bf16(self) -> None:
        rows = attention_report(GPU, torch.bfloat16, 64)
        assert calls(rows) == CALLS
        inference, training, backward, step = rows[:4]
        assert inference.operator.startswith(("fa2F", "fa3F"))
        assert inference.why.startswith("xformers, one call on overlapping ranges of keys")
        assert training.why.startswith("xformers, one call on copied ranges of keys")
        assert backward.operator.startswith(("fa2B", "fa3B"))
        assert step.why.startswith("xformers, one call a scale")

    def test_why_not_a_faster_one(self) -> None:
        rows = attention_report(GPU, torch.float32, 64)
        assert rows[0].operator.startswith("cutlassF")
        assert "copied ranges" in rows[0].why
        assert "fa2F" in rows[0].why
        assert "dtype" in rows[0].why

    def test_what_xformers_cannot_do_is_done_by_torch(self) -> None:
        row = attention_report(GPU, torch.bfloat16, 12)[0]
        assert (row.operator, row.why) == ("sdpa, efficient", "no form of xformers takes bfloat16, 12 wide")


@pytest.mark.cuda
def test_on_the_gpu_here() -> None:
    rows = attention_report(GPU, torch.bfloat16, 64)
    assert calls(rows) == CALLS
    assert all(row.operator and row.why for row in rows)
