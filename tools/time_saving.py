"""What it costs to be careful: hashing a checkpoint against writing it, and looking at every step's figures.

.venv/bin/python tools/time_saving.py [--megabytes 300] [--folder DIR]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cyclevar.core.training.checkpoint_manifest import Manifest
from cyclevar.core.training.divergence import Spikes, demand_finite, demand_finite_state
from cyclevar.core.training.state import random_state
from cyclevar.core.weights.checkpoints import save_tensors


def seconds(act: Callable[[], object], repeats: int) -> list[float]:
    """How long ``act`` takes, each time."""
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        act()
        found.append(time.perf_counter() - begun)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        path, manifest = folder / "step-00000001.safetensors", Manifest(folder)
        net = torch.nn.Module()
        for i in range(10):
            net.register_buffer(f"part{i}", torch.randn(given.megabytes * 25_000))
        tensors = net.state_dict()
        acts = {
            "write": lambda: save_tensors(path, tensors, {"step": 1}),
            "begin to hash": lambda: manifest.add(path),
            "hash, beside the training": manifest.finish,
            "look for what is not finite": lambda: demand_finite_state({"net": net}),
            "verify": lambda: manifest.flaw(path),
        }
        found = dict.fromkeys(acts, 0.0)
        times = {name: list[float]() for name in acts}
        for _ in range(5):
            for name, act in acts.items():
                times[name] += seconds(act, 1)
        found = {name: statistics.median(times[name]) for name in acts}
        for name, value in found.items():
            print(
                f"{name:28} {value:7.3f} s  {value / found['write']:6.1%} of writing {path.stat().st_size / 1e6:.0f} MB"
            )
    spikes, figures = Spikes(10.0), {"gradient_norm": 1.0, "loss/gan": 1.0, "loss/cycle": 1.0, "loss/identity": 1.0}
    count = iter(range(10**9))

    def step() -> None:
        random_state()
        demand_finite(figures)
        spikes.look(next(count), figures)

    print(f"each step                    {statistics.median(seconds(step, 2000)) * 1e6:.0f} microseconds")


if __name__ == "__main__":
    main()
