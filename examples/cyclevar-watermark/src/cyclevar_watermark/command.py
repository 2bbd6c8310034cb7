"""``cyclevar watermark detect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def group() -> None:
    """A watermark in generated pictures."""


@app.command()
def detect(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="As they were generated.")],
    key: Annotated[str, typer.Option("--key", help="The secret that they were marked with.")] = "open",
    backbone: Annotated[str, typer.Option("--backbone", help="The family of the model that drew them.")] = "var",
    preset: Annotated[str, typer.Option("--preset", help="Its size.")] = "tiny",
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="NAME_OR_FILE", help="As for generate.  [default: what ships]")
    ] = None,
    scales: Annotated[int, typer.Option("--scales", help="How many of the finest scales were marked.")] = 1,
) -> None:
    """Tell which pictures carry the watermark of a key; only the model that drew them can read it.

    Pictures of one origin tell more together than each alone.
    """
    import torch

    from cyclevar.core.config.base import validate
    from cyclevar.core.data.images import read_picture
    from cyclevar.core.data.transforms import to_tensor
    from cyclevar.core.errors import ConfigError
    from cyclevar.core.models.catalog import open_model
    from cyclevar_watermark.config import WatermarkConfig
    from cyclevar_watermark.detect import Found
    from cyclevar_watermark.detect import detect as find

    def show(what: str, found: Found) -> None:
        word = "marked" if found.marked else "not marked"
        typer.echo(f"{what}: {word} (z {found.z:.1f}; {found.green:.1%} green, naive z {found.naive:.1f})")

    config = validate(WatermarkConfig, {"key": key, "scales": scales})
    model = open_model(backbone, preset, weights=weights).eval()
    opened = [read_picture(path) for path in pictures]
    if len({picture.size for picture in opened}) > 1:
        raise ConfigError("the pictures have different sizes", expected="one size; ask for the others by themselves")
    images = torch.stack([to_tensor(picture, (picture.height, picture.width)) for picture in opened])
    each, together = find(model, images, config)
    for path, found in zip(pictures, each, strict=True):
        show(str(path), found)
    if len(pictures) > 1:
        show(f"all {len(pictures)} together", together)
