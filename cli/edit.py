"""``cyclevar edit``: redo a part of a picture, continue it beyond its borders, redraw its details."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cyclevar.cli._model import Choice, chooses_model, default_targets, pair, pixels
from cyclevar.core.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

    from cyclevar.core.models.model import Model

command = typer.Typer(
    help="Edit a picture: redo a part, continue it beyond its borders, redraw its details.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

PictureArgument = Annotated[Path, typer.Argument(metavar="IN", help="The picture.")]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="The file to write, such as edited.png.")]
ConditionOption = Annotated[
    str | None,
    typer.Option("--condition", metavar="TEXT", help="What to draw: a class id, a domain's name or a prompt."),
]
ComposeOption = Annotated[
    bool,
    typer.Option(
        "--compose/--no-compose",
        help="Put the picture's own pixels back where nothing is redone; else all has gone through the tokenizer.",
    ),
]


@command.command("inpaint")
@chooses_model
def inpaint(
    choice: Choice,
    source: PictureArgument,
    out: OutArgument,
    mask: Annotated[
        Path | None, typer.Option("--mask", metavar="FILE", help="A picture of the same size, white where to redo.")
    ] = None,
    box: Annotated[
        str | None,
        typer.Option("--box", metavar="LEFT,TOP,RIGHT,BOTTOM", help="Redo a rectangle, in pixels, instead of a mask."),
    ] = None,
    condition: ConditionOption = None,
    compose: ComposeOption = True,
) -> None:
    """Redo what a mask or a box covers, as the condition says; the rest stays."""

    def run(opened: Model, picture: Image.Image, target: str) -> Image.Image:
        from cyclevar.core.pipelines.edit_image import inpaint_picture

        marked = _mask(picture, mask, box)
        return inpaint_picture(opened, picture, marked, target, compose=compose, seed=choice.seed, **choice.settings)

    _edit(source, out, run, condition, choice)


@command.command("outpaint")
@chooses_model
def outpaint(
    choice: Choice,
    source: PictureArgument,
    out: OutArgument,
    left: Annotated[int, typer.Option("--left", min=0, help="Pixels to add at the left.")] = 0,
    top: Annotated[int, typer.Option("--top", min=0, help="Pixels to add at the top.")] = 0,
    right: Annotated[int, typer.Option("--right", min=0, help="Pixels to add at the right.")] = 0,
    bottom: Annotated[int, typer.Option("--bottom", min=0, help="Pixels to add at the bottom.")] = 0,
    condition: ConditionOption = None,
    compose: ComposeOption = True,
) -> None:
    """Continue a picture beyond its borders, for a family that makes pictures of the new size."""
    if not (left or top or right or bottom):
        raise ConfigError("nothing is to be added", expected="--left, --top, --right or --bottom in pixels")

    def run(opened: Model, picture: Image.Image, target: str) -> Image.Image:
        from cyclevar.core.pipelines.edit_image import expand_picture

        size = picture.height + top + bottom, picture.width + left + right
        return expand_picture(
            opened, picture, size, target, offset=(top, left), compose=compose, seed=choice.seed, **choice.settings
        )

    _edit(source, out, run, condition, choice)


@command.command("expand")
@chooses_model
def expand(
    choice: Choice,
    source: PictureArgument,
    out: OutArgument,
    size: Annotated[str | None, typer.Option("--size", metavar="HxW", help="Of the new canvas, in pixels.")] = None,
    ratio: Annotated[
        str | None, typer.Option("--ratio", metavar="W:H", help="Of the new canvas's sides, the smallest around it.")
    ] = None,
    condition: ConditionOption = None,
    compose: ComposeOption = True,
) -> None:
    """Put a picture in the middle of a larger canvas, of another size or aspect, and draw the rest."""
    if bool(size) == bool(ratio):
        raise ConfigError(
            "both --size and --ratio are given" if size else "the new canvas is not said",
            expected="one of --size and --ratio",
        )

    def run(opened: Model, picture: Image.Image, target: str) -> Image.Image:
        from cyclevar.core.pipelines.edit_image import canvas_of_ratio, expand_picture

        if size:
            canvas = pixels("--size", size)
        else:
            width, height = pair("--ratio", str(ratio), ":")
            canvas = canvas_of_ratio(picture, width / height, opened.tokenizer.stride)
        return expand_picture(opened, picture, canvas, target, compose=compose, seed=choice.seed, **choice.settings)

    _edit(source, out, run, condition, choice)


@command.command("refine")
@chooses_model
def refine(
    choice: Choice,
    source: PictureArgument,
    out: OutArgument,
    keep: Annotated[int | None, typer.Option("--keep", help="Coarse scales to keep.  [default: half of them]")] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="HxW", help="Draw it larger, for a family that can; keeps its scales so far."),
    ] = None,
    condition: ConditionOption = None,
) -> None:
    """Keep a picture's coarse scales and draw its details anew, at a larger size if wanted."""

    def run(opened: Model, picture: Image.Image, target: str) -> Image.Image:
        from cyclevar.core.pipelines.edit_image import refine_picture

        larger = pixels("--size", size) if size else None
        return refine_picture(opened, picture, target, keep=keep, size=larger, seed=choice.seed, **choice.settings)

    _edit(source, out, run, condition, choice)


def _edit(
    source: Path,
    out: Path,
    run: Callable[[Model, Image.Image, str], Image.Image],
    condition: str | None,
    choice: Choice,
) -> None:
    """Read the picture, open the model that the options choose, edit and write."""
    from cyclevar.core.data.images import FORMATS, read_picture, save_picture

    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f"{out} is no name for a picture", expected=f"one that ends in {', '.join(FORMATS)}")
    picture = read_picture(source)
    opened = choice.open()
    edited = run(opened, picture, condition if condition is not None else _only_target(opened))
    save_picture(edited, out)
    typer.echo(f"{out}: {edited.width}x{edited.height}")


def _only_target(model: Model) -> str:
    """What to draw where it is not said. Raises `ConfigError` unless the model knows one thing alone."""
    names = default_targets(model)
    if len(names) > 1:
        raise ConfigError("what to draw is not said", expected=f"--condition, one of {', '.join(names)}")
    return names[0]


def _mask(picture: Image.Image, mask: Path | None, box: str | None) -> Image.Image:
    """The mask of the options, white where to redo."""
    from PIL import Image, ImageDraw

    from cyclevar.core.data.images import read_picture

    if (mask is None) == (box is None):
        raise ConfigError(
            "both --mask and --box are given" if mask else "what to redo is not said",
            expected="one of --mask and --box",
        )
    if mask is not None:
        return read_picture(mask)
    try:
        left, top, right, bottom = (int(part) for part in str(box).split(","))
    except ValueError as error:
        raise ConfigError(f"--box is {box!r}", expected="four whole numbers: left,top,right,bottom") from error
    if not (0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height):
        raise ConfigError(
            f"--box is {box}", expected=f"left,top,right,bottom inside the picture of {picture.width}x{picture.height}"
        )
    drawn = Image.new("L", picture.size, 0)
    ImageDraw.Draw(drawn).rectangle((left, top, right - 1, bottom - 1), fill=255)
    return drawn
