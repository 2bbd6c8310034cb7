"""What ``cyclevar demo`` makes: sheets of translated pictures, and a training of a few steps."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from cyclevar.core.config import DiscriminatorConfig, LoopConfig, TrainConfig, WarmupConfig
from cyclevar.core.data.datasets import UnpairedDataset
from cyclevar.core.data.transforms import from_array
from cyclevar.core.evaluation.translators import held_out, match_domains
from cyclevar.core.picture_files import fit, save_picture, unfit
from cyclevar.core.training.loop import Display
from cyclevar.core.training.start import train
from cyclevar.core.translator import Translator

CAPTION, GAP = 22, 4
"""Height of the caption row of a sheet, and the space between its pictures, in pixels."""


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


def draw_sheet(columns: dict[str, list[Image.Image]], *, rows: int = 8, side: int = 128) -> Image.Image:
    """Pictures in columns under their captions; what is beyond ``rows`` goes on in the same columns further right."""
    count = max(len(pictures) for pictures in columns.values())
    blocks, cell = -(-count // rows), side + GAP
    width = blocks * len(columns) * cell + (blocks - 1) * 4 * GAP + GAP
    sheet = Image.new("RGB", (width, min(count, rows) * cell + CAPTION + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for block in range(blocks):
        for column, (caption, pictures) in enumerate(columns.items()):
            left = GAP + (block * len(columns) + column) * cell + block * 4 * GAP
            draw.text((left + side // 2, CAPTION // 2), caption, "black", font, anchor="mm")
            for row, picture in enumerate(pictures[block * rows : (block + 1) * rows]):
                shown = picture.resize((side, side), Image.Resampling.LANCZOS)
                sheet.paste(shown, (left, CAPTION + row * cell))
    return sheet


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
