"""How this process gets memory from the system."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's ``mallopt`` (malloc.h)."""

SHARE = 0.95
"""Of the free memory that a process may take."""


def keep_freed_memory() -> bool:
    """Keep memory that is freed in the process, for the next tensor of its size; whether that could be set.

    By default glibc maps every large buffer anew and gives it back at once, so that a network pays for zeroed pages in
    every layer. The process then stays as large as it was at its peak. Does nothing where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))


@contextlib.contextmanager
def within_free_memory() -> Iterator[None]:
    """Inside, allocations fail that the machine has no memory for: an error, where Linux would kill the process.

    What is free counts when it begins, and for this process and those that it starts, each by itself. Does nothing
    where the system is another.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    import psutil

    free = psutil.virtual_memory().available + psutil.swap_memory().free
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(psutil.Process().memory_info().data + SHARE * free)
    tighter = [bound for bound in (before, most, limit) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(tighter), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))
