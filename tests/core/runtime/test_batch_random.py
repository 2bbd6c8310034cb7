"""What a row gets does not depend on how many processes share its batch."""

from __future__ import annotations

import pytest
import torch

from cyclevar.core.networks.diff_augment import PARTS, augment
from cyclevar.core.runtime.batch_random import blocks, draw, shared


def numbers(count: int) -> torch.Tensor:
    return draw(count, lambda rows: torch.rand(rows, 3))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("joined", [1, 2, 4])
def test_blocks_of_all_processes_are_those_of_one(processes: int, joined: int) -> None:
    size = 2
    torch.manual_seed(0)
    whole = numbers(joined * processes * size).unflatten(0, (joined, processes, size))
    after = torch.get_rng_state()
    for number in range(processes):
        torch.manual_seed(0)
        with shared(blocks(number, processes, size)):
            mine = numbers(joined * size)
        assert torch.equal(mine.unflatten(0, (joined, size)), whole[:, number])
        assert torch.equal(torch.get_rng_state(), after)


def test_augmented_pictures_are_those_of_the_whole_batch() -> None:
    images = torch.rand(6, 3, 8, 8)
    torch.manual_seed(0)
    whole = augment(images, tuple(PARTS))
    for number in range(3):
        torch.manual_seed(0)
        with shared(blocks(number, 3, 2)):
            part = augment(images[2 * number : 2 * number + 2], tuple(PARTS))
        assert torch.allclose(part, whole[2 * number : 2 * number + 2], atol=1e-6)


def test_it_ends_with_the_block() -> None:
    with shared(blocks(0, 2, 3)):
        with shared(None):
            assert len(numbers(5)) == 5
        with pytest.raises(AssertionError, match="5 rows are no blocks of 3"):
            numbers(5)
    torch.manual_seed(0)
    first = numbers(2)
    torch.manual_seed(0)
    assert torch.equal(first, torch.rand(2, 3))
