"""Sheets of images: columns with captions, rows of generated images, samples of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

from cyclevar.core.data.transforms import to_picture
from cyclevar.core.runtime.files import write_atomically

CAPTION, GAP = 22, 4
"""Height of the caption row of a sheet, and the space between its pictures, in pixels."""


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


COLUMNS, ROWS = 12, 8
"""Most pictures of a target side by side on the sheet, and most rows of them."""


def picture_grid(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Pictures ``[3,H,W]`` in [-1,1] of one size on one white sheet: each of ``rows`` begins a new line."""
    columns = min(COLUMNS, max(map(len, rows)))
    sheets = [make_grid(list(row), nrow=columns, pad_value=1.0, padding=2) for row in rows]
    width = max(sheet.shape[2] for sheet in sheets)
    return torch.cat(
        [torch.nn.functional.pad(sheet, (0, width - sheet.shape[2]), value=1.0) for sheet in sheets], dim=1
    )


def write_grid(path: Path, rows: Sequence[Tensor]) -> None:
    """Rows of pictures ``[N,3,H,W]`` in [-1,1] as one PNG file."""
    picture = to_picture(torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1))
    write_atomically(path, lambda partial: picture.save(partial, format="PNG"))
