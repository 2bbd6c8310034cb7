"""Times translators side by side: every mode of every one, interleaved, so that a busy machine slows all alike.

    python tools/time_translators.py [--batch N] [--repeats N] TRANSLATOR...

Without names, all that ship. Prints median milliseconds a picture with the quartiles, as a table in Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from cyclevar import Translator
from cyclevar.core.weights.shipped import find_translator, shipped_translators

MODES = ("parallel", "serial")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("translators", nargs="*", default=list(shipped_translators()))
    arguments.add_argument("--batch", type=int, default=1)
    arguments.add_argument("--repeats", type=int, default=30)
    given = arguments.parse_args()
    runs: dict[tuple[str, str], list[float]] = {}
    ready = dict[tuple[str, str], Translator]()
    for name in given.translators:
        translator = Translator.load(find_translator(name))
        if translator.model.has_settings:
            ready |= {(name, mode): Translator.load(find_translator(name), mode=mode) for mode in MODES}
        else:
            ready[name, "one pass"] = translator
    for repeat in range(given.repeats + 2):
        for key, translator in ready.items():
            pictures = torch.rand(given.batch, 3, *translator.model.image_size) * 2 - 1
            begun = time.perf_counter()
            translator(pictures, translator.default_target)
            if repeat > 1:  # the first two warm up
                runs.setdefault(key, []).append(1e3 * (time.perf_counter() - begun) / given.batch)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, pictures at a time: {given.batch}\n")
    print("| translator | mode | ms a picture |\n|---|---|---|")
    for (name, mode), times in runs.items():
        low, middle, high = statistics.quantiles(times, n=4)
        print(f"| {name} | {mode} | {middle:.0f} [{low:.0f}, {high:.0f}] |")


if __name__ == "__main__":
    main()
