"""Edit whole images of any size: inpaint, outpaint, refine.

An image whose size is no multiple of the stride is padded by its edges and cut back. One for which the model has no
schedule is scaled to the nearest size that it has, and back.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cyclevar.core.data.fitting import Fitted, fit, unfit
from cyclevar.core.data.transforms import from_array
from cyclevar.core.errors import ConfigError
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.editing import inpaint, refine
from cyclevar.core.next_scale.generation import schedule_for
from cyclevar.core.pipelines.translator import Target
from cyclevar.core.schedule import ScaleSchedule


def inpaint_picture(
    model: Model,
    picture: Image.Image,
    mask: Image.Image,
    target: Target,
    *,
    compose: bool = True,
    **settings: Any,
) -> Image.Image:
    """A picture of any size with what is white in ``mask`` drawn anew as ``target``.

    Raises `ConfigError` for a mask of another size, or one without white.
    """
    if mask.size != picture.size:
        raise ConfigError(
            f"the mask is {mask.width}x{mask.height} and the picture {picture.width}x{picture.height} (width x height)",
            expected="a mask of the picture's size",
        )
    redo = mask.convert("L").point(lambda level: 255 * (level >= 128))
    if redo.getbbox() is None:
        raise ConfigError("the mask has no white, so that nothing is to be redone", expected="white where to redo")
    schedule, fitted = _place(model, picture)
    marked = _place(model, redo.convert("RGB"))[1].pixels[..., 0] >= 32  # where scaling has left any white
    output = inpaint(
        model,
        _image(model, fitted),
        torch.from_numpy(marked)[None, None],
        model.backbone.condition([target]),
        schedule=schedule,
        compose=False,
        **settings,
    )
    edited = unfit(output[0], fitted)
    return Image.composite(edited, picture, redo) if compose else edited


def expand_picture(
    model: Model,
    picture: Image.Image,
    size: tuple[int, int],
    target: Target,
    *,
    offset: tuple[int, int] | None = None,
    compose: bool = True,
    **settings: Any,
) -> Image.Image:
    """A picture continued on a larger canvas of ``size`` (height, width), on which it lies at ``offset`` (top, left).

    In the middle if no offset is given. Raises `ConfigError` where the canvas is smaller than the picture, or the model
    cannot make a picture of that size.
    """
    rooms = size[0] - picture.height, size[1] - picture.width
    top, left = offset or (max(rooms[0], 0) // 2, max(rooms[1], 0) // 2)
    if not (0 <= top <= rooms[0] and 0 <= left <= rooms[1]):
        raise ConfigError(
            f"the picture of {picture.height}x{picture.width} does not lie inside {size[0]}x{size[1]} (height x width)",
            expected="a larger canvas around it",
        )
    if rooms == (0, 0):
        raise ConfigError("the canvas is as large as the picture", expected="a larger one")
    around = ((top, rooms[0] - top), (left, rooms[1] - left))
    canvas = Image.fromarray(np.pad(np.asarray(picture), (*around, (0, 0)), mode="edge"))
    _, fitted = _place(model, canvas)
    if fitted.box != (0, 0, *canvas.size):
        schedule_for(model, size)  # names the nearest size
    known = np.zeros((picture.height, picture.width), np.uint8)
    mask = Image.fromarray(np.pad(known, around, constant_values=255))
    return inpaint_picture(model, canvas, mask, target, compose=compose, **settings)


def refine_picture(
    model: Model,
    picture: Image.Image,
    target: Target,
    *,
    keep: int | None = None,
    size: tuple[int, int] | None = None,
    **settings: Any,
) -> Image.Image:
    """A picture with its ``keep`` coarsest scales kept and the finer ones drawn anew.

    ``size`` (height, width) draws it larger where the family can. ``keep`` if not given: the scales up to the picture's
    own size of those of a larger one, else half of them.
    """
    if size is None:
        schedule, fitted = _place(model, picture)
        keep = len(schedule) // 2 if keep is None else keep
    else:
        schedule, stride = schedule_for(model, size), model.tokenizer.stride
        own = picture.height / stride, picture.width / stride
        inside = sum(height <= own[0] and width <= own[1] for height, width in schedule.sizes)
        keep = min(inside, len(schedule) - 1) if keep is None else keep
        fitted = fit(picture.resize((size[1], size[0]), Image.Resampling.LANCZOS), size)
    output = refine(
        model, _image(model, fitted), keep, model.backbone.condition([target]), schedule=schedule, **settings
    )
    return unfit(output[0], fitted)


def canvas_of_ratio(picture: Image.Image, ratio: float, stride: int) -> tuple[int, int]:
    """Height and width of the smallest canvas of whole cells around a picture, ``ratio`` times as wide as high."""
    width = max(picture.width, picture.height * ratio)
    height = max(picture.height, width / ratio)
    return math.ceil(round(height, 6) / stride) * stride, math.ceil(round(width, 6) / stride) * stride


def _place(model: Model, picture: Image.Image) -> tuple[ScaleSchedule, Fitted]:
    """A picture on the canvas of the nearest schedule: padded right and below by less than a cell, or scaled."""
    stride = model.tokenizer.stride
    schedule = model.config.nearest_schedule((math.ceil(picture.height / stride), math.ceil(picture.width / stride)))
    height, width = (side * stride for side in schedule.full)
    rooms = height - picture.height, width - picture.width
    if all(0 <= room < stride for room in rooms):
        pixels = np.pad(np.asarray(picture), ((0, rooms[0]), (0, rooms[1]), (0, 0)), mode="edge")
        return schedule, Fitted(pixels, (0, 0, *picture.size), picture.size)
    return schedule, fit(picture, (height, width))


def _image(model: Model, fitted: Fitted) -> Tensor:
    """The canvas as ``[1,3,H,W]`` in [-1,1] where the model is."""
    return from_array(fitted.pixels)[None].to(model.device)
