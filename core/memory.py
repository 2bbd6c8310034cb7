"""An account of the memory that tensors would take while a model runs without any; the signs that there is none left.

A pass can be made on tensors without memory (torch's fake tensors): every operation then gives the shapes, types and
lifetimes that it has for real, the tensors that autograd keeps included, and computes nothing.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cyclevar.core.allocator import within_free_memory
from cyclevar.core.errors import MemoryShortageError

_NUMBERS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default)


class Ledger(TorchDispatchMode):
    """Bytes of the tensors that are alive, by what they are for, and those at the moment of the highest sum.

    Active inside ``with ledger.running():``. New tensors are counted for the `stage` that runs. Whoever asks for the
    value of a tensor without memory is told something: yes, 0, or a half; who chooses by values gets half of all.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live, self.at_peak = Counter[str](), Counter[str]()
        self._peak = self._sum = 0
        self._stage = "activations: other"
        self._kinds: dict[int, str] = {}
        self._watched: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._weightless = FakeTensorMode(allow_non_fake_inputs=True)
        self._twins: dict[tuple[int, torch.Size], Tensor] = {}
        self._kept: list[Tensor] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """What runs inside takes no memory and is counted, from the present state on."""
        self.at_peak, self._peak = self.live.copy(), self._sum
        with self._weightless, self:
            yield

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """New tensors inside are counted as the activations of ``name``."""
        outer, self._stage = self._stage, f"activations: {name}"
        try:
            yield
        finally:
            self._stage = outer

    def count(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Count tensors for ``kind``, whatever they were counted for before."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key, size = id(storage), storage.nbytes()
            if key in self._kinds:
                self.live[self._kinds[key]] -= size
                self._sum -= size
            else:
                self._watched[key] = weakref.ref(storage, functools.partial(self._forget, key, size))
            self._kinds[key] = kind
            self.live[kind] += size
            self._sum += size
            if self._sum > self._peak:
                self._peak, self.at_peak = self._sum, self.live.copy()

    def _forget(self, key: int, size: int, storage: object) -> None:
        del self._watched[key]
        self.live[self._kinds.pop(key)] -= size
        self._sum -= size

    def take_weight(self, module: nn.Module, optimizers: Sequence[Optimizer] = ()) -> None:
        """Put tensors without memory, on the CPU, in the place of those in ``module`` and ``optimizers``.

        What shared its memory shares it still. Real tensors that are not trained stay as they are, since others may use
        them too.
        """
        replaced: dict[int, Tensor] = {}

        def replacement(tensor: Tensor) -> Tensor:
            if id(tensor) not in replaced:
                key = tensor.untyped_storage()._cdata, tensor.shape
                with self._weightless:
                    if key not in self._twins:
                        self._twins[key] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    twin = self._twins[key]
                    is_parameter = isinstance(tensor, nn.Parameter)
                    replaced[id(tensor)] = nn.Parameter(twin, tensor.requires_grad) if is_parameter else twin
                self._kept.append(tensor)  # so that its storage's address means this one alone
            return replaced[id(tensor)]

        for part in module.modules():
            tables: Sequence[dict[str, Any]] = part._parameters, part._buffers
            for table in tables:
                for name, tensor in table.items():
                    if tensor is None or isinstance(tensor, FakeTensor):
                        continue
                    if tensor.is_meta or tensor.requires_grad:
                        table[name] = replacement(tensor)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["params"] = [replacement(parameter) for parameter in group["params"]]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.is_nonzero.default:
            return True
        if func in _NUMBERS:
            if not isinstance(args[0], FakeTensor):
                with unset_fake_temporarily():
                    return func(*args)
            dtype = args[0].dtype
            return 0.5 if dtype.is_floating_point else True if dtype == torch.bool else 0
        if func is torch.ops.aten.nonzero.default and isinstance(args[0], FakeTensor):
            out = args[0].new_empty((args[0].numel() + 1) // 2, args[0].ndim, dtype=torch.int64)
            self.count_new([out])
            return out
        given = {name: value for name, value in (kwargs or {}).items() if name != "generator"}  # nothing is drawn
        out = func(*args, **given)
        self.count_new(tensor for tensor in tree_leaves(out) if isinstance(tensor, Tensor))
        return out

    def count_new(self, tensors: Iterable[Tensor]) -> None:
        """Count those of the tensors that are not counted yet for the present stage."""
        self.count(self._stage, (one for one in tensors if id(one.untyped_storage()) not in self._kinds))


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers."""
    yield from module.parameters()
    yield from module.buffers()


class Needs(Protocol):
    """What `cyclevar.core.estimate` finds."""

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
