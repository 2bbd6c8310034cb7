"""Times opening a model file as cyclevar does against building a model and copying the file's tensors into it.

    python tools/time_loading.py [--backbone NAME] [--preset NAME] [--rounds N]

Each way runs in a process of its own, in turn; prints median seconds and peak memory of both.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path


def run(way: str, family: str, preset: str, path: str) -> tuple[float, int]:
    """Seconds, and the highest use of memory in bytes, of one way in this process."""
    import torch

    from cyclevar.core.bench.worker import forget_peak, peak_bytes
    from cyclevar.core.models.model import build, load_model
    from cyclevar.core.weights.checkpoints import load_tensors

    forget_peak(torch.device("cpu"))
    begun = time.perf_counter()
    if way == "opened":
        model = load_model(path)
    else:
        model = build(family, preset)
        model.load_state(load_tensors(Path(path))[0], what=path)
    # A mapped file is read when it is used.
    _ = float(sum(parameter.detach().sum() for parameter in model.parameters()))
    return time.perf_counter() - begun, peak_bytes(torch.device("cpu"))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--backbone", default="var")
    arguments.add_argument("--preset", default="d16")
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    from check_estimates import alone  # here, so that the timed processes do not import it

    from cyclevar.core.models.model import build

    found: dict[str, list[tuple[float, int]]] = {"built and copied": [], "opened": []}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.safetensors")
        build(given.backbone, given.preset).save(path)
        for _ in range(given.rounds):
            for way, results in found.items():
                results.append(alone(run, way, given.backbone, given.preset, path))
        size = Path(path).stat().st_size
    print(f"{given.backbone} {given.preset}, {size / 1e6:,.0f} MB, {given.rounds} rounds\n")
    print("| | seconds | peak memory |\n|---|---|---|")
    for way, results in found.items():
        seconds, memory = zip(*results, strict=True)
        print(f"| {way} | {statistics.median(seconds):.2f} | {statistics.median(memory) / 1e9:.2f} GB |")
    ratios = [slow[0] / fast[0] for slow, fast in zip(*found.values(), strict=True)]
    shares = [fast[1] / slow[1] for slow, fast in zip(*found.values(), strict=True)]
    print(f"\n{statistics.median(ratios):.1f} times as fast, {statistics.median(shares):.2f} of the peak memory")


if __name__ == "__main__":
    main()
