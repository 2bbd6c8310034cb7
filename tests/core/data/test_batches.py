from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cyclevar.core.data.batches import UnpairedBatches, epoch_order, stack
from cyclevar.core.data.sources import FolderSource, Part, PictureList
from cyclevar.core.data.transforms import to_tensor
from cyclevar.core.errors import ConfigError, DataError


def flat(folder: Path, count: int) -> PictureList:
    """Pictures of one grey each, so that a batch tells which pictures it holds: number i has the level 10 * i."""
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (9, 8), (10 * number,) * 3).save(folder / f"{number:02d}.png")
    source = FolderSource(folder)
    return PictureList(source, source.names())


def numbers(batch: Tensor) -> list[int]:
    return [round((float(picture.mean()) + 1) * 12.75) for picture in batch]


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def part(tmp_path: Path) -> Part:
    return flat(tmp_path / "a", 7), flat(tmp_path / "b", 5)


@pytest.fixture
def noisy(tmp_path: Path) -> Part:
    rng = np.random.default_rng(0)
    lists = []
    for domain in "ab":
        (tmp_path / f"noisy-{domain}").mkdir()
        for number in range(6):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"noisy-{domain}" / f"{number}.png")
        source = FolderSource(tmp_path / f"noisy-{domain}")
        lists.append(PictureList(source, source.names()))
    return lists[0], lists[1]


def test_shape_type_and_range(noisy: Part) -> None:
    for half in UnpairedBatches(noisy, 3, 8, load_size=10).batch(0):
        assert half.shape == (3, 3, 8, 8)
        assert half.dtype == torch.float32
        assert half.min() >= -1
        assert half.max() <= 1


def test_every_epoch_shows_every_picture_once(part: Part) -> None:
    batches = UnpairedBatches(part, 3, 4)
    steps = [batches.batch(step) for step in range(35)]
    for domain, count in ((0, 7), (1, 5)):
        shown = [number for step in steps for number in numbers(step[domain])]
        epochs = [shown[begin : begin + count] for begin in range(0, len(shown), count)]
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 5


def test_batch_depends_on_seed_and_step_alone(noisy: Part) -> None:
    options = {"load_size": 12, "flip": True, "seed": 3}
    forwards = UnpairedBatches(noisy, 4, 8, **options)  # type: ignore[arg-type]
    backwards = UnpairedBatches(noisy, 4, 8, cache=False, **options)  # type: ignore[arg-type]
    first = {step: forwards.batch(step) for step in range(8)}
    assert all(same(backwards.batch(step), first[step]) for step in reversed(range(8)))
    assert not same(UnpairedBatches(noisy, 4, 8, load_size=12, flip=True, seed=4).batch(0), first[0])


@pytest.mark.parametrize("workers", [1, 3])
def test_iterate_equals_batch(noisy: Part, workers: int) -> None:
    batches = UnpairedBatches(noisy, 4, 8, load_size=12, flip=True, workers=workers)
    stream = batches.iterate(start_step=5)
    plain = UnpairedBatches(noisy, 4, 8, load_size=12, flip=True)
    assert all(same(pair, plain.batch(5 + offset)) for offset, pair in enumerate(itertools.islice(stream, 12)))


def test_augmentation_varies_by_position_and_domain(noisy: Part) -> None:
    """One and the same picture at every place: the pieces still differ."""
    one = PictureList(noisy[0].source, noisy[0].names[:1])
    a, b = UnpairedBatches((one, one), 16, 8, load_size=16).batch(0)
    pieces = {piece.numpy().tobytes() for piece in a}
    assert len(pieces) > 8
    assert not torch.equal(a, b)


def test_without_room_pictures_are_whole(noisy: Part) -> None:
    whole = {to_tensor(noisy[0][index], 8).numpy().tobytes() for index in range(6)}
    batch = UnpairedBatches(noisy, 6, 8).batch(0)[0]
    assert {picture.numpy().tobytes() for picture in batch} == whole


def test_bad_pictures_are_replaced_by_the_next(part: Part) -> None:
    good = [numbers(UnpairedBatches(part, 7, 4).batch(step)[0]) for step in range(3)]
    root = part[0].source.root  # type: ignore[attr-defined]
    for number in (2, 5):
        (root / f"{number:02d}.png").write_bytes(b"damaged")
    batches = UnpairedBatches(part, 7, 4)
    for step in range(3):
        order = good[step]
        expected = []
        for place in range(7):
            after = order[place:] + order[:place]
            expected.append(next(number for number in after if number not in (2, 5)))
        assert numbers(batches.batch(step)[0]) == expected
    assert set(batches.bad) == {"A/02.png", "A/05.png"}
    assert stack(part[0], 4).shape[0] == 5


def test_nothing_readable(tmp_path: Path, part: Part) -> None:
    for path in (tmp_path / "b").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"none of 5 pictures can be read.*\.png"):
        UnpairedBatches(part, 2, 4).batch(0)
    with pytest.raises(DataError, match="none of 5"):
        next(UnpairedBatches(part, 2, 4).iterate())
    with pytest.raises(DataError, match="none of 5"):
        stack(part[1], 4)


def test_load_size_below_size(part: Part) -> None:
    with pytest.raises(ConfigError, match="load_size"):
        UnpairedBatches(part, 2, 8, load_size=4)


def test_stack_keeps_the_order(part: Part) -> None:
    assert numbers(stack(part[0], 4)) == list(range(7))
    assert numbers(stack(part[0], 4, limit=3)) == [0, 1, 2]


def test_epoch_order_is_a_fair_permutation() -> None:
    orders = [epoch_order(0, 0, epoch, 4) for epoch in range(2000)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    first = Counter(int(order[0]) for order in orders)
    assert all(abs(first[index] - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5 for index in range(4))


def test_too_many_bad_pictures_stop_with_the_list(tmp_path: Path) -> None:
    """Early: of 300 pictures of which most are bad, long before all have been seen."""
    a, b = flat(tmp_path / "a", 20), flat(tmp_path / "b", 20)
    many = PictureList(a.source, [*a.names, *(f"gone-{number}.png" for number in range(280))])
    batches = UnpairedBatches((many, b), 4, 4, most_bad=0.1)
    with pytest.raises(DataError, match=r"11 of the \d+ pictures that were opened cannot be read .*gone-\d+\.png: No"):
        any(batches.batch(step) is None for step in range(75))
    assert len(many.bad) == 11
    met = int(batches._met[0].sum())
    assert met <= 30


def test_as_many_bad_pictures_as_are_allowed_do_not_stop(part: Part) -> None:
    root = part[0].source.root  # type: ignore[attr-defined]
    (root / "03.png").write_bytes(b"damaged")
    for most, stops in ((1 / 7, False), (0.1, True)):
        fresh = PictureList(part[0].source, part[0].names), part[1]
        batches = UnpairedBatches(fresh, 7, 4, most_bad=most)
        if stops:
            with pytest.raises(DataError, match=r"1 of the \d pictures .*03\.png.*at most 10% bad ones"):
                batches.batch(0)
        else:
            assert len(batches.batch(0)[0]) == 7


@pytest.mark.parametrize("shares", [2, 3])
def test_shares_are_the_rows_of_the_whole_batch(noisy: Part, shares: int) -> None:
    options = {"load_size": 12, "flip": True}
    whole = UnpairedBatches(noisy, 6, 8, **options)  # type: ignore[arg-type]
    pieces = [UnpairedBatches(noisy, 6, 8, share=(n, shares), **options) for n in range(shares)]  # type: ignore[arg-type]
    for step in range(4):
        joined = zip(*(piece.batch(step) for piece in pieces), strict=True)
        a, b = (torch.cat(halves) for halves in joined)
        assert same((a, b), whole.batch(step))


def test_a_batch_that_cannot_be_shared_equally(noisy: Part) -> None:
    with pytest.raises(ConfigError, match=r"batch of 4 .* shared by 3 processes; expected a multiple of 3"):
        UnpairedBatches(noisy, 4, 8, share=(0, 3))
