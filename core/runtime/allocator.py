"""How this process gets memory from the system."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

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

    What is free counts when it begins, and what a container or batch job may take (`group_limit`); for this process and
    those that it starts, each by itself. Does nothing where the system is another.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    import psutil

    free = psutil.virtual_memory().available + psutil.swap_memory().free
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [psutil.Process().memory_info().data + int(SHARE * free)]
    group = group_limit()
    if group is not None:
        limits.append(int(SHARE * group))
    limits += [limit for limit in (before, most) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def group_limit(root: Path = Path("/")) -> int | None:
    """The most bytes that this process and others of its control group may take, as containers and batch jobs set it.

    None where nothing is said. ``root`` holds ``proc`` and ``sys`` (cgroups(7): version 2, and the memory controller of
    version 1).
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    limits = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        mounted, name = ("memory", "memory.limit_in_bytes") if controllers else ("", "memory.max")
        below = PurePosixPath(path.lstrip("/"))
        for folder in (below, *below.parents):
            with contextlib.suppress(OSError, ValueError):  # not seen from inside a container; "max"
                limits.append(int((root / "sys/fs/cgroup" / mounted / folder / name).read_text()))
    return min(limits, default=None)
