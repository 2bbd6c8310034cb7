"""What a training runs on, for the record."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import torch


def describe_machine(device: torch.device) -> dict[str, str]:
    """Device, processor, cores, memory, GPU and versions, by name; what the system does not tell is left out."""
    found = {"device": device.type, "processor": _processor(), "cores": _cores(), "memory": _memory()}
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        found["GPU"] = f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB"
        found["CUDA"] = torch.version.cuda or ""
    found |= {
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "cyclevar": importlib.metadata.version("cyclevar"),
    }
    return {name: value for name, value in found.items() if value}


def _processor() -> str:
    details = Path("/proc/cpuinfo")
    if details.exists():
        for line in details.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> str:
    """Those of the machine, and those that this process may use where they are fewer."""
    there = os.cpu_count() or 0
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    return f"{there}" if usable == there else f"{there}, of which {usable} may be used"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    except (AttributeError, ValueError, OSError):  # not on Windows, not everywhere else
        return ""
