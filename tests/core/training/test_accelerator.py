"""Device and precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from cyclevar.core.errors import ConfigError
from cyclevar.core.training import accelerator as device
from cyclevar.core.training.accelerator import make_accelerator


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """accelerate keeps one state a process; here every test has its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def product(accelerator: Any) -> torch.dtype:
    with accelerator.autocast():
        return (torch.ones(2, 2, device=accelerator.device) @ torch.ones(2, 2, device=accelerator.device)).dtype


def test_a_cpu_computes_in_float32_unless_told_otherwise() -> None:
    accelerator = make_accelerator("cpu")
    assert (accelerator.device.type, product(accelerator)) == ("cpu", torch.float32)


def test_bf16_can_be_asked_for() -> None:
    assert product(make_accelerator("cpu", "bf16")) == torch.bfloat16


def test_a_process_keeps_its_precision() -> None:
    make_accelerator("cpu", "float32")
    make_accelerator("cpu", "float32")
    with pytest.raises(ConfigError, match=r"already trained on another device or in another precision.*new process"):
        make_accelerator("cpu", "bf16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ConfigError, match="there is no device cuda"):
        make_accelerator("cuda")
    assert make_accelerator("auto").device.type == "cpu"


@pytest.mark.cuda
def test_a_gpu_computes_in_bf16_if_it_can() -> None:
    accelerator = make_accelerator("auto")
    assert accelerator.device.type == "cuda"
    half = torch.cuda.is_bf16_supported(including_emulation=False)
    assert product(accelerator) == (torch.bfloat16 if half else torch.float32)


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "choose_device", lambda name: torch.device(name))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were started on a machine with 1 GPUs"):
        make_accelerator("cuda")
    with pytest.raises(ConfigError, match="4 processes would share cuda:0; expected --device cuda or none"):
        make_accelerator("cuda:0")
