"""How this process gets memory from the system."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's ``mallopt`` (malloc.h)."""


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
