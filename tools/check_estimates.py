"""How near the predictions of ``cyclevar estimate`` come to what processes use, as a table in Markdown.

    python tools/check_estimates.py [NUMBER ...]

Every case runs in a process of its own: its peak, less what it takes after the same pass with next to no model, so that
libraries and their code are in neither. Measured twice: with every freed buffer given back to the system, which is what
tensors hold, and with freed memory kept for the next one, as the command line does. Numbers choose cases, from 0.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch

from cyclevar.core.bench.config import BenchConfig
from cyclevar.core.bench.work import Work
from cyclevar.core.bench.worker import forget_peak, peak_bytes
from cyclevar.core.diagnostics.memory_estimate import estimate
from cyclevar.core.runtime.allocator import keep_freed_memory

Result = TypeVar("Result")

EVERY: dict[str, Any] = {"loss": {"cycle_every": 1, "identity_every": 1}, "diagnose_every": 1}
"""The largest update every time, as the estimate supposes: all losses, and the gradient of each measured."""


MMAP_THRESHOLD = -3
"""A parameter of glibc's ``mallopt`` (malloc.h)."""


def cases() -> list[BenchConfig]:
    """Three families in small, and VAR-d16."""
    made: list[BenchConfig] = []
    for family in ("var", "infinity", "flexvar"):
        made += [translation(family, "tiny", 8), training(family, "tiny", 4)]
    return [
        *made,
        training("var", "tiny", 4, gradient_checkpointing=True),
        training("var", "tiny", 4, objective={"chunk": 1}),
        training("var", "tiny", 4, objective={"order": "turbo"}),
        training("var", "tiny", 4, lora={"rank": 8}),
        translation("var", "d16", 1),
        translation("var", "d16", 4),
        translation("var", "d16", 1, mode="serial"),
        training("var", "d16", 1, gradient_checkpointing=True),
        training("var", "d16", 1, gradient_checkpointing=True, lora={"rank": 8}),
    ]


def translation(family: str, preset: str, batch: int, mode: str = "parallel") -> BenchConfig:
    return BenchConfig.model_validate(
        {"mode": mode, "backbone": family, "preset": preset, "batch": batch, "device": "cpu"}
    )


def training(family: str, preset: str, batch: int, **settings: Any) -> BenchConfig:
    return translation(family, preset, batch, "train").model_copy(update={"training": EVERY | settings})


def measured(config: BenchConfig, *, keep: bool = False) -> int:
    """Bytes that passes of the model take in a process of their own, on top of what one takes without a model.

    ``keep``: with freed memory kept in the process.
    """
    return alone(_measured, config, keep)


def alone(function: Callable[..., Result], *given: object) -> Result:
    """What ``function`` gives in a process of its own. Raises `BrokenProcessPool` where that one dies."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *given).result()


def _measured(config: BenchConfig, keep: bool) -> int:
    if keep:
        keep_freed_memory()
    else:
        give_back_freed_memory()
    return peak_above_nothing(lambda config: Work(config, plain=True).timed, config)


def give_back_freed_memory() -> None:
    """Let glibc map every buffer of 64 KiB or more by itself, so that it goes back to the system when it is freed."""
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 2**16)


def peak_above_nothing(ready: Callable[[BenchConfig], Callable[[], object]], config: BenchConfig) -> int:
    """The peak of this process in the second call of what ``ready`` gives, less that with next to no model."""
    device = torch.device("cpu")

    def passes(config: BenchConfig) -> int:
        call = ready(config)
        call()
        forget_peak(device)
        call()
        return peak_bytes(device)

    passes(config.model_copy(update={"backbone": "var", "preset": "tiny", "batch": 1, "schedule": "1-2-4"}))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    forget_peak(device)
    before = peak_bytes(device)
    return passes(config) - before


def main() -> None:
    chosen = [int(number) for number in sys.argv[1:]]
    print("| pass | settings | estimated MB | measured MB | error | freed memory kept MB |")
    print("|---|---|---|---|---|---|")
    for number, config in enumerate(cases()):
        if chosen and number not in chosen:
            continue
        predicted, found, kept = estimate(config).peak_bytes, measured(config), measured(config, keep=True)
        what = f"{config.mode}, {config.backbone} {config.preset}, batch {config.batch}"
        settings = ", ".join(f"{name} {value}" for name, value in config.training.items() if name not in EVERY)
        numbers = f"{predicted / 1e6:,.0f} | {found / 1e6:,.0f} | {predicted / found - 1:+.0%} | {kept / 1e6:,.0f}"
        print(f"| {what} | {settings} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
