"""One process of a training, started by a test::

    python worker.py train|pretrain CONFIG.json OUT DEVICE [resume | numbered | replay FOLDER | patience SECONDS]

A launcher's variables are in the environment. The training is as light as those of `conftest`. ``replay``: instead of
going on from step to step, begin every step from the state that another training had there, and keep what comes of it.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch


class Progress:
    """Prints what is shown, each line at once."""

    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        print(f"step {step}", flush=True)

    def note(self, text: str) -> None:
        print(text, flush=True)


def replay(reference: Path) -> Any:
    """What stands in for the loop: ``checkpoints/step-N`` of ``reference`` is made into ``replayed/step-N+1``."""
    from cyclevar.core.training.run_folder import RunFolder, step_of
    from cyclevar.core.training.state import pack_state, unpack_state
    from cyclevar.core.training.task import Task
    from cyclevar.core.weights.checkpoints import load_tensors, save_tensors

    def run(task: Task, folder: RunFolder, *_: object) -> None:
        for path in RunFolder(reference).saved()[:-1]:
            step = step_of(path)
            unpack_state(task.parts(), load_tensors(path)[0], what=str(path))
            figures, _ = task.team.agree(task.update(step))
            tensors = pack_state(task.parts())
            if folder.writes:
                save_tensors(folder.path / "replayed" / f"step-{step + 1:08d}.safetensors", tensors, figures)

    return run


def main() -> int:
    torch.set_num_threads(1)
    from cyclevar.core.config.pretraining import PretrainConfig
    from cyclevar.core.config.training import TrainConfig
    from cyclevar.core.errors import CyclevarError
    from cyclevar.core.training import accelerator as accelerators
    from cyclevar.core.training import launch as start

    kind, config, out, device, *more = sys.argv[1:]
    resume, numbered, patient = more == ["resume"], more == ["numbered"], more[:1] == ["patience"]
    runpy.run_path(str(Path(__file__).with_name("conftest.py")))["lighten"](pytest.MonkeyPatch())
    if patient:
        accelerators.PATIENCE = float(more[1])
    elif more[:1] == ["replay"]:
        start.run = replay(Path(more[1]))
    text = Path(config).read_text()
    judge = json.loads(text).get("discriminator", {}).get("settings", {})
    if judge.get("model") == "cyclevar-small":  # as the fixture `small_clip` has it
        open_clip.add_model_config(Path(judge["weights"]).with_name("cyclevar-small.json"))
    try:
        if kind == "train":
            settings = TrainConfig.model_validate_json(text)
            start.train(settings, Path(out), resume=resume, display=Progress(), device=device, numbered=numbered)
        else:
            pretraining = PretrainConfig.model_validate_json(text)
            start.pretrain(pretraining, Path(out), resume=resume, display=Progress(), device=device)
    except CyclevarError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
