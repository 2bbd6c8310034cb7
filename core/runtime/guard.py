"""Guarded calls of plugin code: whatever it raises becomes one error that names the plugin.

A plugin that calls ``sys.exit``, raises KeyboardInterrupt or any other BaseException, or skips itself with pytest must
not end the program. Only Ctrl-C of the user, errors of cyclevar and a lack of memory pass.

Limit: a plugin runs in this process, so ``os._exit``, a fatal signal and a crash in native code cannot be caught.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

from cyclevar.core.errors import CyclevarError, PluginError

Result = TypeVar("Result")

REPAIR = "repair it, or leave it out"

PATIENCE = 10.0
"""Seconds after which a plugin that still loads is named."""


def guarded(failure: str, function: Callable[..., Result], *arguments: Any, hint: str = REPAIR) -> Result:
    """Call plugin code with ``arguments`` and return its result.

    ``failure`` begins the message of the PluginError that replaces every exception, BaseException included; "" adds
    nothing to what was raised. Passed on unchanged: `CyclevarError`, a lack of memory, and KeyboardInterrupt if the
    user pressed Ctrl-C during the call, which plugin code cannot swallow.
    """
    with _interrupts() as interrupts:
        try:
            result = function(*arguments)
        except BaseException as error:
            if interrupts:
                raise KeyboardInterrupt from error
            if isinstance(error, CyclevarError) or _lacks_memory(error):
                raise
            problem = f"{failure}: {described(error)}" if failure else described(error)
            raise PluginError(problem, hint=hint) from error
    if interrupts:
        raise KeyboardInterrupt
    return result


def described(error: BaseException) -> str:
    """Return type and message of an error on one line; the type alone if the message cannot be made."""
    try:
        message = " ".join(str(error).split())
    except BaseException:  # the class is a plugin's, and so is its __str__
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


@contextlib.contextmanager
def contained(what: str, *, patience: float = PATIENCE) -> Iterator[None]:
    """Contain the side effects of plugin code that loads, and name it if it hangs.

    What it prints goes to standard error, since standard output may be JSON. ``sys.stdout``, ``sys.stderr``,
    ``sys.argv`` and the level of ``logging.disable`` are restored; filters that turn every warning into an error are
    dropped. After ``patience`` seconds a warning says that ``what`` has not finished, such as "plugin x (x 1.0)".

    Limit: the warning needs the interpreter, so it does not come if native code hangs and holds the interpreter's lock.
    """
    streams, arguments = (sys.stdout, sys.stderr), list(sys.argv)
    disabled, filters = logging.root.manager.disable, list(warnings.filters)
    timer = threading.Timer(patience, _still_loading, (what, patience))
    timer.daemon = True
    timer.start()
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        timer.cancel()
        sys.stdout, sys.stderr = streams
        sys.argv[:] = arguments
        logging.disable(disabled)
        for one in [one for one in warnings.filters if one[0] == "error" and one not in filters]:
            warnings.filters.remove(one)  # type: ignore[attr-defined]  # typed as a sequence, documented as a list


def _still_loading(what: str, seconds: float) -> None:
    logging.getLogger(__name__).warning(
        "%s is still loading after %g s; if it hangs, stop with Ctrl-C and leave it out with CYCLEVAR_PLUGINS",
        what,
        seconds,
    )


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect the SIGINTs that end in KeyboardInterrupt while the block runs.

    Python runs signal handlers in the main thread alone, so elsewhere nothing can be the user's Ctrl-C.
    """
    caught: list[int] = []
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):  # ignored, the operating system's own, or set outside Python
        yield caught
        return

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        try:
            before(number, frame)
        except KeyboardInterrupt:
            caught.append(number)
            raise

    signal.signal(signal.SIGINT, note)
    try:
        yield caught
    finally:
        # A handler that ran may have replaced itself; one that plugin code put there is removed.
        if signal.getsignal(signal.SIGINT) is note or not came:
            signal.signal(signal.SIGINT, before)


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError) or "torch" not in sys.modules:
        return False

    from cyclevar.core.runtime.memory import out_of_memory  # here: it imports torch

    return out_of_memory(error)
