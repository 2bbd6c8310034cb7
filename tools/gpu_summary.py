"""Sums up what ``tools/gpu_check.sh`` wrote: a line for each timed pass, and every goal beside the best time.

    python tools/gpu_summary.py FOLDER

A file ``GOAL_VARIANT.txt`` holds the JSON of ``cyclevar bench`` for one variant of a goal's pass. The exit code is 1
if a goal is missed or was not timed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

GOALS = {"parallel": 5.0, "serial": 12.0, "infinity": 30.0}
"""Milliseconds of a pass on an H100 in bf16: VAR-d16 at 256 pixels at once, then by scales; Infinity-2B at 512."""

ESTIMATE = "estimate"
"""``estimate_NAME.txt`` holds the JSON of ``cyclevar estimate`` for the pass ``NAME``."""


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Name of a step -> what it printed, where that is JSON."""
    found = {}
    for path in sorted(folder.glob("*.txt")):
        try:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
    return found


def describe(name: str, result: dict[str, Any]) -> str:
    """One line about a timed pass."""
    seconds, ratio = result["total"]["seconds"], result["speedup_over_plain"]
    parts = [
        f"{name}: {1e3 * seconds['median']:.2f} ms ({1e3 * seconds['low']:.2f} to {1e3 * seconds['high']:.2f})",
        result["dtype"],
        f"{result['peak_bytes'] / 1e9:.1f} GB",
    ]
    if ratio is not None:
        parts.append(f"{ratio:.2f} times as fast as plain")
    if result["largest_difference"] is not None:
        parts.append(f"differs from it by at most {result['largest_difference']:.4f}")
    return "; ".join([*parts, f"attention {result['attention']}"])


def summary(folder: Path) -> tuple[list[str], bool]:
    """The lines, and whether every goal was reached."""
    results = read(folder)
    passes = {name: result for name, result in results.items() if "total" in result}
    lines, reached = [describe(name, result) for name, result in passes.items()], True
    for goal, limit in GOALS.items():
        times = {name: 1e3 * one["total"]["seconds"]["median"] for name, one in passes.items() if _part(name) == goal}
        best = min(times, key=lambda name: times[name], default=None)
        met = best is not None and times[best] <= limit
        what = "not timed" if best is None else f"{times[best]:.2f} ms by {best}"
        lines.append(f"goal {goal}, {limit:g} ms: {what}: {'reached' if met else 'MISSED'}")
        reached = reached and met
    lines += [compare(name, one, passes) for name, one in results.items() if _part(name) == ESTIMATE]
    return lines, reached


def compare(name: str, estimated: dict[str, Any], passes: dict[str, dict[str, Any]]) -> str:
    """What `cyclevar estimate` says of a pass beside the peak of its plain path."""
    of = name.removeprefix(f"{ESTIMATE}_")
    if of not in passes:
        return f"{name}: {of} was not measured"
    peak = passes[of]["plain_peak_bytes"] or passes[of]["peak_bytes"]
    wanted = estimated["peak_bytes"]
    return f"{name}: {wanted / 1e9:.2f} GB estimated, {peak / 1e9:.2f} GB measured, {wanted / peak - 1:+.0%}"


def _part(name: str) -> str:
    return name.partition("_")[0]


if __name__ == "__main__":
    printed, every_goal = summary(Path(sys.argv[1]))
    print("\n".join(printed))
    sys.exit(not every_goal)
