"""The schedules that FlexVAR trains on: a new one every update (Sec. 3.3). Torch-free."""

from __future__ import annotations

from random import Random

from cyclevar.core.config.families import Size
from cyclevar.core.schedule import ScaleSchedule

USUAL = 0.05
"""Share of updates on the model's own schedule."""

FIRST, LOWER, UPPER = (1, 2), 5, 2
"""The sides that always begin, and how many are drawn below and above 10/16 of the full side."""

DROPS = (0.9, 0.95, 0.98, 0.99)
"""A uniform number above the first of these drops one scale, above the second another, and so on."""

EXPENDABLE = 3
"""One of so many scales before the last goes, again and again, where a schedule has too many tokens."""


def fit_sides(sides: list[int], size: Size) -> list[Size]:
    """The scales of the given longer sides, in the ratio of ``size``."""
    full = max(size)
    return [(max(1, round(size[0] * side / full)), max(1, round(size[1] * side / full))) for side in sides]


def stretch(schedule: ScaleSchedule, size: Size) -> ScaleSchedule:
    """The schedule for a latent of ``size`` cells that keeps to the sides which ``schedule`` knows.

    The longer side runs through the sides of ``schedule`` up to that of ``size``, which ends it, and past its end in
    steps of half as much again, as the paper goes on to 384 and 512 px (16, 23 or 24, 32); the other side keeps the
    ratio.
    """
    full, last = max(size), max(schedule.full)
    sides = [max(scale) for scale in schedule.sizes]
    while (last := last * 3 // 2) < full and last > sides[-1]:
        sides.append(last)
    return ScaleSchedule((*fit_sides([side for side in sides if side < full], size), size))


def draw_schedule(usual: ScaleSchedule, random: Random) -> ScaleSchedule:
    """A schedule to train on, where ``usual`` is the model's own: its full size at the end and no more tokens.

    The sides are drawn as the published training does it for a full side of 16: 1, 2, five of 3..10, two of 11..15, 16;
    at most four in between are left out. There, the budget of tokens may cost the last scale too; here, as in the
    paper, it stays.
    """
    if random.random() < USUAL:
        return usual
    full = max(usual.full)
    split = max(full * 10 // 16, FIRST[-1])
    lower, upper = range(FIRST[-1] + 1, split + 1), range(split + 1, full)
    drawn = random.sample(lower, min(LOWER, len(lower))) + random.sample(upper, min(UPPER, len(upper)))
    sides = [side for side in (*FIRST, *sorted(drawn)) if side < full]
    luck = random.random()
    for _ in range(sum(luck > threshold for threshold in DROPS)):
        if len(sides) > len(FIRST):
            sides.pop(random.randrange(len(FIRST), len(sides)))
    while True:
        schedule = ScaleSchedule((*fit_sides(sides, usual.full), usual.full))
        if schedule.total <= usual.total or not sides:
            return schedule
        lowest = min(max(len(sides) - EXPENDABLE, len(FIRST)), len(sides) - 1)
        sides.pop(random.randrange(lowest, len(sides)))
