"""DiffAugment: every picture its own draw, gradients pass, and what it does on average."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.errors import UnknownNameError
from cyclevar.core.networks.diff_augment import PARTS, augment, check_parts, color, cutout, translation


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def copies(count: int, side: int = 16) -> Tensor:
    """One picture, many times."""
    return (torch.rand(1, 3, side, side) * 2 - 1).expand(count, 3, side, side)


def test_without_parts_nothing_happens() -> None:
    images = copies(2)
    assert augment(images, ()) is images


def test_the_nearest_part_is_offered() -> None:
    assert check_parts(["cutout", "color"]) == ("cutout", "color")
    with pytest.raises(UnknownNameError, match=r"no augmentation named 'colour'.* did you mean 'color'"):
        check_parts(["colour"])


def test_parts_run_in_order() -> None:
    images = copies(3)
    state = torch.get_rng_state()
    expected = cutout(translation(images))
    torch.set_rng_state(state)
    assert torch.equal(augment(images, ("translation", "cutout")), expected)


@pytest.mark.parametrize("part", PARTS)
def test_pictures_are_drawn_for_apart_and_not_changed_in_place(part: str) -> None:
    images = copies(8).clone()
    before = images.clone()
    out = augment(images, (part,))
    assert out.shape == images.shape
    assert out.dtype == images.dtype
    assert torch.equal(images, before)
    assert not any(torch.equal(out[0], other) for other in out[1:])
    again = augment(images, (part,))
    assert not torch.equal(out, again)


@pytest.mark.parametrize("part", PARTS)
def test_the_gradient_is_the_derivative(part: str) -> None:
    images = (torch.rand(2, 3, 5, 5, dtype=torch.float64) * 2 - 1).requires_grad_()

    def with_the_same_draw(given: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return augment(given, (part,))

    assert torch.autograd.gradcheck(with_the_same_draw, images)


def test_colours_stay_on_average() -> None:
    images = copies(20_000, side=2)
    assert_close(color(images).mean(0), images[0], atol=0.03, rtol=0)


def test_brightness_saturation_and_contrast_keep_to_their_ranges() -> None:
    # saturation and contrast leave a single grey alone, and contrast alone changes a grey step
    brightness = color(torch.zeros(5000, 3, 1, 1))
    assert_close(brightness, brightness[:, :1].expand_as(brightness))
    step = color(torch.tensor([-1.0, 1.0]).expand(5000, 3, 1, 2))
    assert_close(step, step[:, :1].expand_as(step))
    contrast = (step[..., 1] - step[..., 0]) / 2
    # both change how far colours lie from their mean: by up to 2 and 1.5 times
    colours = color(torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(5000, 3, 1, 1))
    saturation = (colours[:, 2] - colours[:, 0]) / 2
    for values, low, high in ((brightness, -0.5, 0.5), (contrast, 0.5, 1.5), (saturation, 0.0, 3.0)):
        assert low - 1e-5 <= float(values.min()) <= low + 0.03
        assert high - 0.3 <= float(values.max()) <= high + 1e-5


def test_shifts_reach_an_eighth_of_the_side_each_way() -> None:
    images = torch.zeros(4000, 1, 16, 24)
    images[:, 0, 8, 12] = 1
    out = translation(images)
    assert bool((out.sum((1, 2, 3)) == 1).all())
    y, x = out.flatten(1).argmax(1) // 24 - 8, out.flatten(1).argmax(1) % 24 - 12
    for offsets, limit in ((y, 2), (x, 3)):
        counts = (offsets + limit).bincount()
        assert len(counts) == 2 * limit + 1
        assert_close(counts / 4000, torch.full((2 * limit + 1,), 1 / (2 * limit + 1)), atol=0.03, rtol=0)


def test_a_shift_moves_zeros_in_and_keeps_the_rest() -> None:
    images = copies(50)
    for image, out in zip(images, translation(images), strict=True):
        assert any(
            torch.equal(
                out[:, max(dy, 0) : 16 + min(dy, 0), max(dx, 0) : 16 + min(dx, 0)],
                image[:, max(-dy, 0) : 16 - max(dy, 0), max(-dx, 0) : 16 - max(dx, 0)],
            )
            and int((out == 0).all(0).sum()) == 256 - (16 - abs(dy)) * (16 - abs(dx))
            for dy in range(-2, 3)
            for dx in range(-2, 3)
        )


@pytest.mark.parametrize(("side", "cut"), [(16, 8), (10, 5)])
def test_a_square_is_cut_out(side: int, cut: int) -> None:
    images = torch.ones(4000, 3, side, side)
    out = cutout(images)
    gone = (out == 0).all(1)
    assert bool((gone == (out == 0).any(1)).all())
    rows, columns = gone.any(2).sum(1), gone.any(1).sum(1)
    assert bool((gone.sum((1, 2)) == rows * columns).all())
    assert int(rows.max()) == int(columns.max()) == cut
    assert int(rows.min()) >= cut // 2
    # the middle is hit by `cut` of all centres each way, whatever the border does
    middle = float(gone[:, side // 2, side // 2].float().mean())
    centres = side + 1 - cut % 2
    assert middle == pytest.approx((cut / centres) ** 2, abs=0.03)
    assert float(gone.float().mean()) < 0.25
