"""A pool of past images, so that a discriminator does not forget them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImagePool(nn.Module):
    """Past pictures, so that a discriminator does not forget them; part of the training state."""

    images: Tensor
    count: Tensor

    def __init__(self, capacity: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(capacity, 3, *size))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def exchange(self, images: Tensor, drawn: int) -> Tensor:
        """Up to ``drawn`` past pictures behind the given ones ``[B,3,H,W]``, which then replace random past ones."""
        held, capacity = int(self.count), len(self.images)
        past = self.images[torch.randint(held, (min(drawn, held),))] if held else self.images[:0]
        for image in images:
            held = int(self.count)
            if capacity:
                self.images[held if held < capacity else int(torch.randint(capacity, ()))] = image
                self.count.fill_(min(held + 1, capacity))
        return torch.cat([images, past.to(images)])
