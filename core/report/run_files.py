"""Where things lie in a run folder, and its figures read back.

::

    RUN/config.yaml             the settings, complete
    RUN/facts.yaml              what else decides the outcome: the pictures, the perceptual distance, frozen weights
    RUN/starts.jsonl            one JSON object a start or resumption: when, after how many steps, on what machine
    RUN/metrics.jsonl           one JSON object a logged step
    RUN/samples/step-NNNNNNNN.png
    RUN/checkpoints/step-NNNNNNNN.safetensors
    RUN/checkpoints/best.safetensors    averaged weights of the step with the best validation figures
    RUN/checkpoints/manifest.json       sizes and SHA-256 of the files beside it
    RUN/failures/step-NNNNNNNN/ what a step saw that went wrong
    RUN/model.safetensors, RUN/translator.json    the finished translator, after the last step
    RUN/best/                   the same after the best step
    RUN/evaluation.json         what `cyclevar evaluate --json` printed, where it was kept
    RUN/bad-pictures.txt        the pictures that could not be read in the last start, and why
    RUN/report.html             all of this to look at
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class RunFiles:
    """The paths of a run folder; none need exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.best_state = self.checkpoints / "best.safetensors"
        self.failures = path / "failures"
        self.samples = path / "samples"
        self.metrics = path / "metrics.jsonl"
        self.config = path / "config.yaml"
        self.facts = path / "facts.yaml"
        self.starts = path / "starts.jsonl"
        self.evaluation = path / "evaluation.json"
        self.bad_pictures = path / "bad-pictures.txt"
        self.report = path / "report.html"


LARGEST_FILE = 2**30
"""Bytes of the largest text file that is read of a run."""

LARGEST_STEP = 10**12
"""Steps above this number are damage."""


def is_regular(path: Path) -> bool:
    """Return whether there is a file, or a link to one, that can be read to its end: no folder, pipe or device."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have, a folder that may not be entered
        return False


def read_text(path: Path) -> str:
    """Return the text of a file in a run folder, with bytes that are no text replaced.

    Raises `ValueError` or `OSError` if it is no regular file, too large, or cannot be read.
    """
    if not is_regular(path):
        raise ValueError("it is not a file")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"it has more than {LARGEST_FILE} bytes")
    return path.read_text(encoding="utf-8", errors="replace")


def parse_json(text: str) -> Any:
    """Return what JSON text holds. Raises `ValueError` for whatever is wrong with it."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the JSON objects of a file that was written line by line, and how many lines are damaged.

    Damaged is what is no object with a whole number ``step``: a line that a full disk or a power cut left behind. A
    file that is missing has no lines; one that cannot be read is one damaged line.
    """
    try:
        if not path.exists():
            return [], 0
        text = read_text(path)
    except (OSError, ValueError):
        return [], 1
    lines, damaged = [], 0
    for line in text.splitlines():
        try:
            found = parse_json(line)
        except ValueError:
            found = None
        step = found.get("step") if isinstance(found, dict) else None
        if isinstance(found, dict) and type(step) is int and 0 <= step <= LARGEST_STEP:
            lines.append(found)
        else:
            damaged += 1
    return lines, damaged
