"""The same model at several batch sizes, picture sizes or numbers of scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from cyclevar.core.bench.config import BenchConfig
from cyclevar.core.bench.work import sized
from cyclevar.core.errors import ConfigError
from cyclevar.core.models.model import build
from cyclevar.core.schedule import ScaleSchedule

Along = Literal["batch", "size", "scales"]


def sweep(config: BenchConfig, along: Along, values: Sequence[int] = ()) -> Mapping[int, BenchConfig]:
    """What to time, by the value that changes; without ``values``, some that suit the model.

    Scales are left out of the middle of its schedule, evenly. Raises `ConfigError` where the model can do fewer than
    two of them.
    """
    if along == "batch":
        return {value: config.model_copy(update={"batch": value}) for value in values or (1, 2, 4)}
    model = build(config.backbone, config.preset, initialize=False)
    if along == "scales":
        count = len(model.schedule)
        chosen = values or sorted({2, (count + 4) // 3, (2 * count + 2) // 3, count})
        return {one: config.model_copy(update={"schedule": _thinned(model.schedule, one)}) for one in chosen}
    side = model.image_size[0]
    possible: dict[int, BenchConfig] = {}
    problem: ConfigError | None = None
    for value in values or (side // 2, side, side * 3 // 2, side * 2):
        try:
            sized(model, value)
        except ConfigError as error:
            problem = error
        else:
            possible[value] = config.model_copy(update={"size": value})
    if len(possible) < 2:
        raise ConfigError(
            f"{config.backbone} {config.preset} makes pictures of {' and '.join(map(str, possible)) or 'no such'} size",
            expected="at least two sizes to compare",
            hint="use a family of several sizes, as infinity or flexvar, or --sweep batch",
        ) from problem
    return possible


def _thinned(schedule: ScaleSchedule, count: int) -> str:
    """The first and the last scale, and others spread evenly between them."""
    last = len(schedule) - 1
    if not 2 <= count <= last + 1:
        raise ConfigError(f"{count} scales are asked for", expected=f"2 to {last + 1}")
    return str(ScaleSchedule(tuple(schedule.sizes[round(i * last / (count - 1))] for i in range(count))))
