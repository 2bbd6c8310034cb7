"""What the training loop runs: a task, and its display."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from torch import Tensor

from cyclevar.core.interfaces.callbacks import Session
from cyclevar.core.training.processes import ALONE, Team
from cyclevar.core.training.state import Parts


class Task(ABC):
    """One kind of training. It owns its models, optimizers and data; the loop owns the run folder and the clock."""

    pictures_per_step: int
    """Of both domains and all processes."""
    team: Team = ALONE
    session: Session | None = None
    """What plugins add to this training."""

    @abstractmethod
    def parts(self) -> Parts:
        """Everything that a resumed run needs, besides the random state; the same names every time."""

    @abstractmethod
    def update(self, step: int) -> Mapping[str, float]:
        """One update, ``step`` counted from 0; figures for the log. Data come as a function of ``step`` alone.

        May raise `NonFiniteError`.
        """

    def pictures(self, step: int) -> Mapping[str, Tensor]:
        """What an update learns from, for whoever looks into one that went wrong."""
        return {}

    @abstractmethod
    def validate(self, step: int) -> Mapping[str, float]:
        """Figures on held-out pictures after ``step`` updates; must not draw from the global random state."""

    @abstractmethod
    def sample(self, step: int) -> list[Tensor]:
        """Rows of pictures ``[N,3,H,W]`` in [-1,1] for the sample grid, equal N; draws nothing either."""

    def remarks(self, step: int, found: Mapping[str, float]) -> Sequence[str]:
        """What a person should be told about the figures that `validate` found, a sentence each."""
        return ()

    def score(self, found: Mapping[str, float]) -> float | None:
        """What the best state is chosen by, lower is better, from what `validate` found; None where none is chosen."""
        return None

    def averaged(self) -> Parts:
        """The parts that the best state consists of: all that is used once the training is over."""
        return {}

    def waited(self) -> float:
        """Seconds spent waiting for data since the last call."""
        return 0.0

    def tell(self, event: Literal["begin", "on_update", "on_validation", "end"], *arguments: Any) -> None:
        """Tell the session's callbacks of an event (`cyclevar.core.interfaces.callbacks.Callback`)."""
        if self.session is None:
            return
        match event:
            case "begin":
                self.session.begin()
            case "end":
                self.session.end()
            case _:
                for callback in self.session.callbacks:
                    self.session.tell(callback, event, *arguments)


class Display(Protocol):
    """What shows progress to a person."""

    def show(self, step: int, steps: int, values: Mapping[str, Any]) -> None:
        """Called after every update that is logged."""

    def note(self, text: str) -> None:
        """One line worth keeping on the screen."""
