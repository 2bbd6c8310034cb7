"""Draws test pictures of the built-in emoji above their translations, ten in a row.

python tools/contact_sheet.py [TRANSLATOR] [PICTURE_FILE]
"""

from __future__ import annotations

import sys

import torch
from PIL import Image

from cyclevar import Translator
from cyclevar.core.config.loop import DataConfig
from cyclevar.core.data.batches import stack
from cyclevar.core.data.datasets import open_dataset
from cyclevar.core.weights.shipped import find_translator

PICTURES, COLUMNS, CELL, EDGE = 50, 10, 96, 2


def main() -> None:
    name, path = (*sys.argv[1:], *("noto-fluent-infinity", "sheet.jpg")[len(sys.argv) - 1 :])
    translator = Translator.load(find_translator(name)).for_inference()
    test = open_dataset(DataConfig().source).test
    assert test is not None
    sources = stack(test[0], translator.model.image_size[0], PICTURES)
    outputs = torch.cat([translator(part, translator.default_target) for part in sources.split(10)])
    sheet = Image.new("RGB", (COLUMNS * CELL, 2 * PICTURES // COLUMNS * CELL), "white")
    for below, pictures in enumerate((sources, outputs)):
        for number, picture in enumerate(pictures):
            row, column = divmod(number, COLUMNS)
            levels = ((picture.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
            cell = Image.fromarray(levels).resize((CELL - 2 * EDGE, CELL - 2 * EDGE), Image.Resampling.BICUBIC)
            sheet.paste(cell, (column * CELL + EDGE, (2 * row + below) * CELL + EDGE))
    sheet.save(path, quality=88)


if __name__ == "__main__":
    main()
