"""How a training shows its progress: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SPEED = ("images_per_second", "data_wait", "memory_gb")
"""Figures that are shown beside the clock and not among the losses."""


class PlainDisplay:
    """One line an update that is logged."""

    def __init__(self, console: Console) -> None:
        self._console, self._clock = console, _Clock()

    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name not in ("step", *SPEED))
        self._line(f"{step}/{steps}: {figures}; {_speed(values)}; {self._clock.left(step, steps)}")

    def note(self, text: str) -> None:
        self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveDisplay:
    """A bar and the latest figures at the foot of the terminal; notes scroll away above."""

    def __init__(self, live: Live) -> None:
        self._live, self._clock = live, _Clock()
        self._figures: dict[str, float] = {}

    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        self._figures |= {name: value for name, value in values.items() if name not in ("step", *SPEED)}
        head = Table.grid(padding=(0, 2))
        head.add_row(
            f"step {step}/{steps}",
            ProgressBar(total=steps, completed=step, width=24),
            self._clock.left(step, steps),
            _speed(values),
        )
        self._live.update(Group(head, self._table()), refresh=True)

    def note(self, text: str) -> None:
        self._live.console.print(Text(text), highlight=False)

    def _table(self) -> Table:
        """The figures by name, as many pairs in a row as fit."""
        width = max((len(name) for name in self._figures), default=0) + 12
        columns = max(1, self._live.console.width // (width + 2))
        table = Table.grid(padding=(0, 2))
        cells = [f"{name:<{width - 11}} {value:>10.4g}" for name, value in self._figures.items()]
        for begin in range(0, len(cells), columns):
            table.add_row(*cells[begin : begin + columns])
        return table


@contextlib.contextmanager
def display(console: Console | None = None) -> Iterator[PlainDisplay | LiveDisplay]:
    """The display for standard output, or for ``console``."""
    console = console or Console()
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    with Live(console=console, auto_refresh=False) as live:
        yield LiveDisplay(live)


class _Clock:
    """Tells how long the rest will take, from the pace since the first step that it saw."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def left(self, step: int, steps: int) -> str:
        now = time.monotonic()
        if self._first is None:
            self._first = step, now
        first, begun = self._first
        if step == steps:
            return "done"
        if step == first:
            return "estimating"
        return f"{_duration((now - begun) / (step - first) * (steps - step))} left"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _speed(values: Mapping[str, Any]) -> str:
    return (
        f"{values['images_per_second']:.1f} images/s, {values['data_wait']:.0%} waiting for data, "
        f"{values['memory_gb']:.1f} GB"
    )
