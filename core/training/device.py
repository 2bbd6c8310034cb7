"""Where a training runs and in which precision: the one place that makes an accelerator."""

from __future__ import annotations

from typing import Literal

import torch
from accelerate import Accelerator

from cyclevar.core.errors import ConfigError
from cyclevar.core.translator import choose_device

Precision = Literal["auto", "float32", "bf16"]


def make_accelerator(device: str = "auto", precision: Precision = "auto") -> Accelerator:
    """An accelerator on one device.

    Weights are float32 always. ``auto`` computes in bfloat16 (autocast) on a GPU that has it, in float32 elsewhere.

    Raises:
        ConfigError: the device is not there, lacks the precision, or several processes were launched.
    """
    wanted = choose_device(device)
    half = wanted.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and wanted.type == "cuda" and not half:
        raise ConfigError("this GPU does not compute in bf16", hint="use --set precision=float32")
    mixed = "bf16" if precision == "bf16" or (precision == "auto" and half) else "no"
    if wanted.type == "cuda":
        torch.cuda.set_device(wanted)
    try:
        accelerator = Accelerator(cpu=wanted.type == "cpu", mixed_precision=mixed)
    except ValueError as error:  # accelerate keeps one state a process
        raise _settled(error) from error
    if accelerator.device.type != wanted.type:
        raise _settled(f"on {accelerator.device.type}")
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"{accelerator.num_processes} processes were launched",
            expected="one",
            hint="start `cyclevar` without `accelerate launch`; training on several GPUs is not supported yet",
        )
    return accelerator


def _settled(reason: object) -> ConfigError:
    return ConfigError(
        f"this process has already trained on another device or in another precision ({reason})",
        hint="start a new process",
    )
