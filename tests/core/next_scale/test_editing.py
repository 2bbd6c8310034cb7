"""Editing: known codes are forced, the others drawn, and what was not to be touched stays the same picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.data.transforms import to_picture
from cyclevar.core.errors import ConfigError
from cyclevar.core.interfaces.backbone import Condition
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.editing import inpaint, mask_pyramid, redraw, refine
from cyclevar.core.next_scale.pyramid import round_trip, tokenize
from cyclevar.core.pipelines.edit_image import canvas_of_ratio, expand_picture, inpaint_picture, refine_picture
from cyclevar.core.schedule import ScaleSchedule

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture
def condition(model: Model) -> Condition:
    return model.backbone.condition([0, 1])


@pytest.fixture
def mask() -> Tensor:
    """The left half of the pictures."""
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., :8] = True
    return mask


def nothing(model: Model) -> list[Tensor]:
    return [torch.zeros(1, *size, dtype=torch.bool) for size in model.schedule.sizes]


def test_with_nothing_to_redo_it_is_the_round_trip(model: Model, images: Tensor, condition: Condition) -> None:
    out = redraw(model, images, nothing(model), condition)
    with torch.no_grad():
        pyramid = tokenize(model.tokenizer, model.tokenizer.encode(images), model.schedule)
        assert_close(out.image, round_trip(model.tokenizer, images), **CLOSE)
    for codes, known in zip(out.codes, pyramid.codes, strict=True):
        assert torch.equal(codes, known)


def test_with_everything_to_redo_nothing_is_seen_of_the_pictures(
    model: Model, images: Tensor, condition: Condition
) -> None:
    everything = [~part for part in nothing(model)]
    one, other = (redraw(model, some, everything, condition, seed=1) for some in (images, -images))
    assert torch.equal(one.image, other.image)
    assert not torch.equal(one.image, redraw(model, images, everything, condition, seed=2).image)


def test_what_lies_outside_of_the_mask_stays(model: Model, images: Tensor, mask: Tensor, condition: Condition) -> None:
    out = inpaint(model, images, mask, condition)
    assert torch.equal(out[..., 8:], images[..., 8:])
    assert not torch.equal(out[..., :8], images[..., :8])
    plain = inpaint(model, images, mask, condition, compose=False)
    assert torch.equal(plain[..., :8], out[..., :8])
    assert not torch.equal(plain[..., 8:], images[..., 8:])


def test_a_finer_known_scale_makes_up_for_a_coarse_drawn_one(
    model: Model, images: Tensor, condition: Condition
) -> None:
    redo = nothing(model)
    redo[1] = ~redo[1]
    with torch.no_grad():
        latent = model.tokenizer.encode(images)
        pyramid = tokenize(model.tokenizer, latent, model.schedule)
        out = redraw(model, images, redo, condition)
        drawn = [part.clone() for part in pyramid.codes]
        drawn[1] = out.codes[1]
        lookup = model.tokenizer.quantizer.lookup
        states = []
        for codes in (out.codes, drawn):
            state = model.tokenizer.begin(2, model.schedule)
            for part in codes:
                state = model.tokenizer.absorb(state, lookup(part).movedim(-1, 1))
            states.append(float((model.tokenizer.latent(state) - latent).square().mean()))
    assert states[0] < states[1]


def test_masks_at_every_scale() -> None:
    schedule = ScaleSchedule.square(1, 2, 4)
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., :8, :9] = True
    one, two, four = (part[0].int().tolist() for part in mask_pyramid(mask, schedule))
    assert one == [[0]]
    assert two == [[1, 0], [0, 0]]
    assert four == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_refining_keeps_the_coarse_scales(model: Model, images: Tensor, condition: Condition) -> None:
    with torch.no_grad():
        assert_close(
            refine(model, images, 3, condition, top_k=1),
            redraw(model, images, [*nothing(model)[:3], ~nothing(model)[3]], condition, top_k=1).image,
        )
    for keep in (-1, 4):
        with pytest.raises(ConfigError, match=f"{keep} scales are to be kept; expected 0 to 3 of 1-2-3-4"):
            refine(model, images, keep, condition)


def random_picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", [(16, 16), (33, 20), (14, 15), (7, 50)])
def test_pictures_of_any_size_keep_it_and_what_is_not_masked(model: Model, size: tuple[int, int]) -> None:
    picture = random_picture(*size)
    mask = Image.new("L", size)
    mask.paste(255, (2, 3, 5, 9))
    out = inpaint_picture(model, picture, mask, "cat")
    assert out.size == size
    marked = np.asarray(mask) > 0
    before, after = np.asarray(picture), np.asarray(out)
    assert np.array_equal(before[~marked], after[~marked])
    assert not np.array_equal(before[marked], after[marked])
    assert inpaint_picture(model, picture, mask, "cat", compose=False).size == size


def test_a_padded_picture_is_not_scaled(model: Model) -> None:
    picture = random_picture(14, 15)
    mask = Image.new("L", (14, 15), 255)
    padded = Image.fromarray(np.pad(np.asarray(picture), ((0, 1), (0, 2), (0, 0)), mode="edge"))
    whole = inpaint_picture(model, padded, Image.new("L", (16, 16), 255), 1)
    assert inpaint_picture(model, picture, mask, 1).tobytes() == whole.crop((0, 0, 14, 15)).tobytes()


def test_masks_that_cannot_be_used(model: Model) -> None:
    picture = random_picture(16, 16)
    with pytest.raises(ConfigError, match=r"the mask is 8x16 and the picture 16x16 .*; expected a mask of the"):
        inpaint_picture(model, picture, Image.new("L", (8, 16), 255), 0)
    with pytest.raises(ConfigError, match="the mask has no white"):
        inpaint_picture(model, picture, Image.new("L", (16, 16)), 0)


def test_a_larger_canvas(model: Model) -> None:
    picture = random_picture(10, 8)
    for offset, (top, left) in ((None, (4, 3)), ((0, 6), (0, 6))):
        out = expand_picture(model, picture, (16, 16), "dog", offset=offset)
        assert out.size == (16, 16)
        assert out.crop((left, top, left + 10, top + 8)).tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    ("size", "offset", "problem"),
    [
        ((16, 32), None, "16x32 pixels .*; expected 16x16, the nearest size"),
        ((6, 16), None, "8x10 does not lie inside 6x16"),
        ((16, 16), (9, 0), "does not lie inside"),
        ((8, 10), None, "the canvas is as large as the picture"),
    ],
)
def test_canvases_that_cannot_be_had(
    model: Model, size: tuple[int, int], offset: tuple[int, int] | None, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        expand_picture(model, random_picture(10, 8), size, "dog", offset=offset)


def test_refining_pictures(model: Model, images: Tensor) -> None:
    picture = to_picture(images[0])
    assert refine_picture(model, picture, 0).tobytes() == refine_picture(model, picture, 0, keep=2).tobytes()
    assert refine_picture(model, random_picture(40, 20), 0).size == (40, 20)
    with pytest.raises(ConfigError, match="32x32 pixels"):
        refine_picture(model, picture, 0, size=(32, 32))


def test_canvases_of_a_ratio() -> None:
    picture = Image.new("RGB", (30, 20))
    assert canvas_of_ratio(picture, 1.5, 1) == (20, 30)
    assert canvas_of_ratio(picture, 3, 4) == (20, 60)
    assert canvas_of_ratio(picture, 1, 4) == (32, 32)
    assert canvas_of_ratio(picture, 0.5, 10) == (60, 30)
