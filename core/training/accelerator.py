"""Where a training runs and in which precision: the one place that makes an accelerator."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Literal

import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from cyclevar.core.errors import ConfigError
from cyclevar.core.runtime.device import choose_device

Precision = Literal["auto", "float32", "bf16"]

PATIENCE = 600
"""Seconds that processes wait for one that does not answer before they give up."""


def make_accelerator(device: str = "auto", precision: Precision = "auto") -> Accelerator:
    """An accelerator on one device, or on one of several for several processes.

    Weights are float32 always. ``auto`` computes in bfloat16 (autocast) on a GPU that has it, in float32 elsewhere.

    Where several processes were launched (by ``accelerate launch`` or ``torchrun``), they find each other, and each is
    on a GPU of its own, or all are on the CPU.

    Raises:
        ConfigError: the device is not there, lacks the precision, or there are more processes than GPUs.
    """
    wanted = choose_device(device)
    together, here = _launched("WORLD_SIZE"), _launched("LOCAL_WORLD_SIZE")
    if wanted.type == "cuda" and together > 1:
        if ":" in device:
            raise ConfigError(f"{together} processes would share {wanted}", expected="--device cuda or none")
        if here > torch.cuda.device_count():
            raise ConfigError(
                f"{here} processes were started on a machine with {torch.cuda.device_count()} GPUs",
                hint="start one process a GPU",
            )
    half = wanted.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and wanted.type == "cuda" and not half:
        raise ConfigError("this GPU does not compute in bf16", hint="use --set precision=float32")
    mixed = "bf16" if precision == "bf16" or (precision == "auto" and half) else "no"
    if wanted.type == "cuda" and together == 1:
        torch.cuda.set_device(wanted)
    # accelerate passes on only what differs from its own defaults, which are ten minutes too, but gloo waits for thirty
    patience = InitProcessGroupKwargs(timeout=timedelta(seconds=PATIENCE, milliseconds=1))
    try:
        accelerator = Accelerator(cpu=wanted.type == "cpu", mixed_precision=mixed, kwargs_handlers=[patience])
    except ValueError as error:  # accelerate keeps one state a process
        raise _settled(error) from error
    if accelerator.device.type != wanted.type:
        raise _settled(f"on {accelerator.device.type}")
    return accelerator


def _launched(variable: str) -> int:
    """What a launcher set in the environment; 1 where there is none."""
    value = os.environ.get(variable, "")
    return int(value) if value.isdecimal() else 1


def _settled(reason: object) -> ConfigError:
    return ConfigError(
        f"this process has already trained on another device or in another precision ({reason})",
        hint="start a new process",
    )
