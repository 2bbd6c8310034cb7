"""Recognize that memory ran out, and explain what was needed."""

from __future__ import annotations

import contextlib
import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

from cyclevar.core.errors import MemoryShortageError
from cyclevar.core.runtime.allocator import within_free_memory


class Needs(Protocol):
    """What `cyclevar.core.diagnostics.memory_estimate` finds."""

    @property
    def needed(self) -> str:
        """How much, and for what."""

    @property
    def savings(self) -> Sequence[str]:
        """Options that need less."""


@contextlib.contextmanager
def explained(estimate: Callable[[], Needs]) -> Iterator[None]:
    """Where memory runs out inside, raise a `MemoryShortageError` that tells what is needed and what needs less.

    Where there is no GPU, that is when the main memory's free part is used up.
    """
    unlimited = torch.cuda.is_available()  # whose driver sets aside more addresses than there is memory
    try:
        with contextlib.nullcontext() if unlimited else within_free_memory():
            yield
    except (RuntimeError, MemoryError, MemoryShortageError) as error:
        if not out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # which hold tensors that the estimate may need the room of,
        gc.collect()  # some of them in cycles
        problem = error.problem if isinstance(error, MemoryShortageError) else shortage(error)
        try:
            found = estimate()
        except (RuntimeError, MemoryError, SystemError):
            raise MemoryShortageError(problem, expected="more of it", hint="end other programs") from error
        raise MemoryShortageError(
            problem,
            expected=f"{found.needed}, besides the process itself",
            hint=f"try {', '.join(found.savings)}" if found.savings else "use a smaller model",
        ) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that there is no memory left."""
    if isinstance(error, (MemoryError, MemoryShortageError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error)
        for sign in (
            *("allocate memory", "not enough memory", "bad_alloc", "out of memory"),
            *("Resource temporarily unavailable", "can't start new thread"),  # no room for the stack of a thread
        )
    )


def shortage(error: BaseException) -> str:
    """What happened, for an error that says that memory ran out."""
    return f"there is too little memory ({next(iter(str(error).splitlines()), type(error).__name__)[:160]})"
