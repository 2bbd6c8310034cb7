"""What ``cyclevar demo`` makes: sheets of translated pictures, and a training of a few steps."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from cyclevar.core.config.loop import LoopConfig
from cyclevar.core.config.training import DiscriminatorConfig, TrainConfig, WarmupConfig
from cyclevar.core.data.fitting import fit, unfit
from cyclevar.core.data.grids import draw_sheet
from cyclevar.core.data.images import save_picture
from cyclevar.core.data.sources import UnpairedDataset
from cyclevar.core.data.transforms import from_array
from cyclevar.core.evaluation.evaluate_translator import held_out, match_domains
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.training.launch import train
from cyclevar.core.training.task import Display


def translate_examples(translator: Translator, dataset: UnpairedDataset, out: Path, *, count: int = 24) -> list[Path]:
    """Translate the first held-out pictures of both domains, which are a fair sample; returns the two sheets.

    ``OUT/A-to-B.png`` shows source, translation and, where the data set has pairs, the true picture of the other
    domain; ``OUT/A-to-B/`` holds the translations one by one, each of the size of its source.
    """
    domains = match_domains(translator, dataset)
    _, part = held_out(dataset)
    sheets = []
    for own, other in ((0, 1), (1, 0)):
        name = f"{domains[own]}-to-{domains[other]}"
        sources = [part[own][index] for index in range(min(count, len(part[own])))]
        translations = translate_pictures(translator, sources, domains[other])
        for title, picture in zip(part[own].names, translations, strict=False):
            save_picture(picture, (out / name / title).with_suffix(".png"))
        columns = {f"{domains[own]} (source)": sources, f"translated to {domains[other]}": translations}
        if dataset.paired:
            columns[f"{domains[other]} (true)"] = [part[other][index] for index in range(len(sources))]
        sheets.append(out / f"{name}.png")
        save_picture(draw_sheet(columns), sheets[-1])
    return sheets


def translate_pictures(
    translator: Translator, pictures: Sequence[Image.Image], target: str, *, batch_size: int = 8
) -> list[Image.Image]:
    """Translations of pictures of any size, each of the size of its source."""
    results = []
    for begin in range(0, len(pictures), batch_size):
        fitted = [fit(picture, translator.model.image_size) for picture in pictures[begin : begin + batch_size]]
        outputs = translator(torch.stack([from_array(one.pixels) for one in fitted]), target)
        results += [unfit(output, one) for output, one in zip(outputs, fitted, strict=True)]
    return results


def train_briefly(out: Path, steps: int, display: Display, *, device: str = "auto") -> Path:
    """Train on the built-in data for ``steps`` steps, a third in each stage; returns the sample pictures of the end.

    The run lies in ``OUT/training``; an earlier one there is replaced.
    """
    folder = out / "training"
    if (folder / "config.yaml").is_file():
        shutil.rmtree(folder)
    config = TrainConfig(
        loop=LoopConfig(
            steps=steps, log_every=max(1, steps // 3), validate_every=steps, sample_every=steps, save_every=steps
        ),
        warmup=WarmupConfig(steps=steps // 3),
        discriminator=DiscriminatorConfig(pretrain_steps=steps // 3),
    )
    train(config, folder, resume=False, display=display, device=device)
    return max((folder / "samples").glob("*.png"))
