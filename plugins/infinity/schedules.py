"""Infinity's schedules: for every aspect ratio 13 scales, of which a pixel budget takes the first few (torch-free)."""

from __future__ import annotations

import math

from cyclevar.core.config.families import Size
from cyclevar.core.schedule import ScaleSchedule

BUDGETS = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
"""Scales of each pixel budget: pictures of about 256, 512, 768 and 1024 pixels a side."""

_TALL = {
    1.0: "1-2-4-6-8-12-16-20-24-32-40-48-64",
    1.25: "1-2-3-5x4-10x8-15x12-20x16-25x20-30x24-35x28-45x36-55x44-70x56",
    1.333: "1-2-4x3-8x6-12x9-16x12-20x15-24x18-28x21-36x27-48x36-60x45-72x54",
    1.5: "1-2-3x2-6x4-9x6-15x10-21x14-27x18-33x22-39x26-48x32-63x42-78x52",
    1.75: "1-2-3-7x4-11x6-14x8-21x12-28x16-35x20-42x24-56x32-70x40-84x48",
    2.0: "1-2-4x2-6x3-10x5-16x8-22x11-30x15-38x19-46x23-60x30-74x37-90x45",
    2.5: "1-2-5x2-10x4-15x6-20x8-25x10-30x12-40x16-50x20-65x26-80x32-100x40",
    3.0: "1-2-6x2-9x3-15x5-21x7-27x9-36x12-45x15-54x18-72x24-90x30-111x37",
}
"""Height over width -> all 13 scales."""


def _every_ratio() -> dict[float, tuple[Size, ...]]:
    found = {ratio: ScaleSchedule.parse(text).sizes for ratio, text in _TALL.items()}
    wide = {
        int(1000 / ratio) / 1000: tuple((width, height) for height, width in sizes) for ratio, sizes in found.items()
    }
    return found | wide


SIZES = _every_ratio()
"""Height over width -> the sizes of all 13 scales, in cells of 16 pixels; a wide picture's are a tall one's, turned."""

NAMED = {
    f"{budget}@{ratio}": str(ScaleSchedule(sizes[:count]))
    for ratio, sizes in sorted(SIZES.items())
    for budget, count in BUDGETS.items()
}
"""Name of a schedule, such as ``0.06M@1.0`` -> its sizes."""


def nearest_ratio(ratio: float) -> float:
    """The ratio of height to width, among those that have schedules, that is nearest to ``ratio``."""
    return min(SIZES, key=lambda known: abs(known - ratio))


def nearest_name(size: Size) -> str:
    """The name of the schedule whose finest map is most like ``size``: in its ratio first, then in its area."""
    sizes = SIZES[nearest_ratio(size[0] / size[1])]
    area = math.log(size[0] * size[1])
    budget = min(BUDGETS, key=lambda name: abs(math.log(math.prod(sizes[BUDGETS[name] - 1])) - area))
    return f"{budget}@{nearest_ratio(size[0] / size[1])}"


def reference_size(size: Size) -> Size:
    """The finest map of the largest budget for a picture of this shape: the grid that positions are counted on."""
    return SIZES[nearest_ratio(size[0] / size[1])][-1]
