"""Track the memory that a model would use, by running it on fake tensors.

A pass can be made on tensors without memory (torch's fake tensors): every operation then gives the shapes, types and
lifetimes that it has for real, the tensors that autograd keeps included, and computes nothing.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
