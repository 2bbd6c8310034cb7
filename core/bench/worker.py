"""A process that times one way to run a model, so that no way profits from what another left in memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cyclevar.core.bench.config import BenchConfig
from cyclevar.core.errors import CyclevarError, MemoryShortageError


class Worker:
    """The process, seen from outside. ``plain``: the straightforward path, with the system's way of giving memory."""

    def __init__(self, config: BenchConfig, *, plain: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, config, plain), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, question: str) -> Any:
        """``ready``, ``flops``, ``pass``, ``ceilings``, ``picture`` or ``facts``. What fails there is raised here."""
        try:
            self._pipe.send(question)
            answer = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(5)
            raise MemoryShortageError(
                f"the timed process ended by itself (exit code {self._process.exitcode})",
                expected="enough memory for the model and its activations",
                hint="use a smaller --preset, --size or --batch",
            ) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pipe.close()
        self._process.join(2)
        if self._process.is_alive():
            self._process.terminate()


def _serve(pipe: Connection, config: BenchConfig, plain: bool) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks ends this one
    if not plain:
        from cyclevar.core.runtime.allocator import keep_freed_memory

        keep_freed_memory()

    from cyclevar.core.bench.stages import StageClock
    from cyclevar.core.bench.work import Work, ceilings
    from cyclevar.core.runtime.memory import out_of_memory

    work: Work | None = None
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            question = pipe.recv()
            try:
                if work is None:
                    work = Work(config, plain=plain)
                if question == "ready":
                    for _ in range(1 if work.device.type == "cpu" else 3):
                        work.timed()
                    forget_peak(work.device)
                    answer: Any = None
                elif question == "flops":
                    answer = work.flops()
                elif question == "pass":
                    answer = work.timed()
                elif question == "ceilings":
                    answer = ceilings(work.device, work.dtype, work.now)
                elif question == "picture":
                    made = work(StageClock(work.device))
                    answer = None if made is None else made.cpu().numpy()
                else:
                    answer = facts(work)
            except CyclevarError as error:
                answer = error
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                answer = MemoryShortageError(
                    f"there is too little memory ({str(error).splitlines()[0]})",
                    hint="use a smaller --preset, --size or --batch, or on a GPU --dtype bf16",
                )
            pipe.send(answer)


def facts(work: Any) -> dict[str, Any]:
    """What is known of the work besides its times."""
    from cyclevar.core.attention.kernels import choose_backend
    from cyclevar.core.runtime.machine import describe_machine

    return {
        "machine": describe_machine(work.device),
        "dtype": str(work.dtype).removeprefix("torch."),
        "attention": ": ".join(choose_backend(work.device, work.config.attention)),
        "image_size": list(work.model.image_size),
        "weight_bytes": work.weight_bytes,
        "peak_bytes": peak_bytes(work.device),
    }


_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def forget_peak(device: Any) -> None:
    """Begin to watch for the highest use of memory."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")


def peak_bytes(device: Any) -> int:
    """The highest use since: of the GPU by tensors, on a CPU of the process as a whole."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
