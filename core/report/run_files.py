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


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of a file that was written line by line, and how many lines are damaged.

    Damaged is what is no object with a whole number ``step``: a line that a full disk or a power cut left behind. A
    file that is missing has no lines.
    """
    if not path.exists():
        return [], 0
    lines, damaged = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if isinstance(found, dict) and type(found.get("step")) is int:
            lines.append(found)
        else:
            damaged += 1
    return lines, damaged
