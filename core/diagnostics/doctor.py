"""What this machine and this installation can do, row by row, and what to do about what is wrong. Torch-free itself."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclevar.core.errors import CyclevarError

State = Literal["ok", "note", "problem"]

LITTLE_MEMORY, LITTLE_DISK = 4e9, 5e9
"""Bytes below which a note is made: VAR-d16 takes 2 GB to translate, a training's run folder some."""

WATCHED = 0.5
"""Seconds that the loading of pictures is timed."""


@dataclass(frozen=True)
class Finding:
    """One row. ``state``: ok; note, for what could be better; or problem, with which cyclevar cannot be used.

    ``advice``: what to do about it; empty where nothing is to be done.
    """

    group: str
    name: str
    state: State
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Everything that is looked at. What fails while it is looked at is a problem; nothing is raised."""
    findings: list[Finding] = []
    for group, look in LOOKS.items():
        try:
            for row in look():
                findings.append(Finding(group, *row))  # one by one: what was found before a failure stays
        except Exception as error:  # a broken installation raises anything, and is what this is for
            found = " ".join(f"{type(error).__name__}: {error}".split())
            advice = error.hint if isinstance(error, CyclevarError) else "install cyclevar and torch again"
            findings.append(Finding(group, group, "problem", found, advice))
    return findings


Row = tuple[str, State, str, str]
"""Name, state, what was found, what to do."""


def _devices() -> Iterator[Row]:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        drivers = shutil.which("nvidia-smi") is not None
        advice = ""
        if drivers:
            advice = "update the driver" if built else "install a torch that is built with CUDA"
        yield "GPU", "note" if drivers else "ok", "none: everything runs on the CPU", advice
        return
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        half = torch.cuda.is_bf16_supported(including_emulation=False)
        yield (
            f"GPU {number}",
            "note" if free < LITTLE_MEMORY else "ok",
            f"{gpu.name}, capability {gpu.major}.{gpu.minor}, {_size(free)} of {_size(total)} free, "
            f"computes in {'bf16' if half else 'float32'}",
            "end what else uses it, or use --device cpu" if free < LITTLE_MEMORY else "",
        )


def _torch() -> Iterator[Row]:
    import torch

    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    yield "version", "ok", f"{torch.__version__}, {cuda}", ""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    yield (
        "threads",
        "ok" if threads == usable else "note",
        f"{threads}, for {usable} cores",
        "" if threads == usable else f"set OMP_NUM_THREADS={usable}, unless the rest is for something else",
    )


def _processor() -> Iterator[Row]:
    import torch

    from cyclevar.core.runtime.machine import describe_machine

    yield "name", "ok", describe_machine(torch.device("cpu"))["processor"], ""
    has = {
        "AVX2": torch.cpu._is_avx2_supported(),
        "AVX-512": torch.cpu._is_avx512_supported(),
        "VNNI": torch.cpu._is_vnni_supported(),
        "AVX-512 bf16": torch.cpu._is_avx512_bf16_supported(),
        "AMX": torch.cpu._is_amx_tile_supported(),
    }
    there, missing = (", ".join(name for name in has if has[name] is wanted) for wanted in (True, False))
    used = torch.backends.cpu.get_cpu_capability()
    yield "instructions", "ok", f"has {there or 'none of them'}; lacks {missing or 'none'}; torch uses {used}", ""


def _attention() -> Iterator[Row]:
    import torch

    from cyclevar.core.diagnostics.attention_report import attention_report
    from cyclevar.core.runtime.device import choose_device

    device = choose_device()
    half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if half else torch.float32
    for head_dim in (64, 128) if device.type == "cuda" else (64,):  # of VAR and of Infinity-2B
        kind = f"{str(dtype).removeprefix('torch.')}, heads {head_dim} wide"
        for row in attention_report(device, dtype, head_dim):
            yield f"{row.what}, {row.direction}", "ok", f"{row.operator} ({kind}): {row.why}", ""


def _memory() -> Iterator[Row]:
    import psutil

    from cyclevar.core.runtime.allocator import group_limit, keep_freed_memory

    free, total, group = psutil.virtual_memory().available, psutil.virtual_memory().total, group_limit()
    allowed = f", of which this container or job may take {_size(group)}" if group is not None and group < total else ""
    little = min(free, group or free) < LITTLE_MEMORY
    advice = "end other programs, or use a small preset and --batch 1" if little else ""
    yield "main memory", "note" if little else "ok", f"{_size(free)} of {_size(total)} free{allowed}", advice

    kept = keep_freed_memory()
    yield (
        "allocator",
        "ok",
        "freed memory is kept in the process" if kept else "the C library's own way: this is not glibc",
        "",
    )


def _disk() -> Iterator[Row]:
    import tempfile

    from cyclevar.core.weights.hub import hub_cache, own_cache, own_folders

    try:
        yield "temporary files", "ok", tempfile.gettempdir(), ""
    except FileNotFoundError as error:
        yield "temporary files", "problem", error.strerror or str(error), "set TMPDIR to a folder that can be written"
    places = {"current folder": Path.cwd()}
    places |= {f"CYCLEVAR_MODELS {number}": folder for number, folder in enumerate(own_folders(), 1)}
    places |= {"Hugging Face cache": hub_cache(), "cyclevar's cache": own_cache()}
    for name, folder in places.items():
        there = next(one for one in (folder, *folder.absolute().parents) if os.access(one, os.F_OK))
        free = shutil.disk_usage(there).free
        missing, closed = there != folder, not os.access(there, os.W_OK)
        found = (
            f"{folder}: {_size(free)} free{', not there yet' if missing else ''}{', not writable' if closed else ''}"
        )
        if missing and name.startswith("CYCLEVAR_MODELS"):
            yield name, "note", found, "correct CYCLEVAR_MODELS, or make the folder"
        elif closed and not name.startswith("CYCLEVAR_MODELS"):
            yield name, "note", found, "results and caches must go elsewhere: --out, HF_HUB_CACHE, CYCLEVAR_CACHE"
        elif free < LITTLE_DISK:
            yield name, "note", found, "make room: a training keeps several checkpoints, d16 weighs 1.7 GB"
        else:
            yield name, "ok", found, ""


def _weights() -> Iterator[Row]:
    from cyclevar.core.models.catalog import list_models
    from cyclevar.core.weights.hub import locate
    from cyclevar.core.weights.published import all_published
    from cyclevar.core.weights.shipped import shipped_translators

    translators = ", ".join(shipped_translators())
    yield (
        "translators",
        "ok" if translators else "problem",
        translators or "none of those that ship",
        "" if translators else "install cyclevar again",
    )
    ready = ", ".join(model.name for model in list_models() if model.ready)
    yield "presets with weights", "ok" if ready else "note", ready or "none", "" if ready else "install cyclevar again"
    files = [file for some in all_published().values() for file in some]
    here = [file.name for file in files if locate(file)]
    advice = "" if here else "`cyclevar models` lists them, `cyclevar models fetch var/d16` gets some"
    found = f"{len(here)} of {len(files)} on this disk" + (f": {', '.join(here)}" if here else "")
    yield "published files", "ok", found, advice


def _plugins() -> Iterator[Row]:
    from cyclevar.core.extension.hookspecs import PROJECT
    from cyclevar.core.extension.manager import get_manager

    manager = get_manager()
    own = [plugin.name for plugin in manager.plugins if plugin.distribution == PROJECT]
    others = [
        f"{plugin.name} ({plugin.distribution} {plugin.version})"
        for plugin in manager.plugins
        if plugin.distribution != PROJECT
    ]
    yield (
        "cyclevar's own",
        "ok" if own else "problem",
        ", ".join(own) or "none",
        "" if own else "install cyclevar again",
    )
    yield "others", "ok", ", ".join(others) or "none", ""
    for failure in manager.failures:
        lost = failure.distribution.startswith(PROJECT + " ")
        found = f"{failure.distribution}: left out: {failure.reason}"
        yield failure.name, "problem" if lost else "note", found, failure.way_out
    for one in manager.disabled:
        yield one.name, "note", f"{one.distribution}: switched off: {one.reason}", one.way_out


def _data() -> Iterator[Row]:
    from cyclevar.core.data.batches import UnpairedBatches
    from cyclevar.core.data.datasets import open_dataset

    dataset = open_dataset()
    batches = UnpairedBatches(dataset.train, 8, 64, cache=False)
    pictures, begun = 0, time.perf_counter()
    for first, second in batches.iterate():
        pictures += len(first) + len(second)
        if time.perf_counter() - begun > WATCHED:
            break
    rate = pictures / (time.perf_counter() - begun)
    yield "built-in pictures", "ok", f"{sum(map(len, dataset.train))} to train on", ""
    yield (
        "loading",
        "ok",
        f"{rate:.0f} pictures/s, read, scaled to 64 pixels and batched by {batches.workers} threads",
        "",
    )


LOOKS: dict[str, Callable[[], Iterable[Row]]] = {
    "device": _devices,
    "torch": _torch,
    "processor": _processor,
    "attention": _attention,
    "memory": _memory,
    "disk": _disk,
    "weights": _weights,
    "plugins": _plugins,
    "data": _data,
}
"""Group of rows -> what finds them."""


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
