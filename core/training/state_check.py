"""Check what a checkpoint holds before any of it is used: step, names, shapes, dtypes, values, random state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cyclevar.core.errors import CheckpointError, brief
from cyclevar.core.report.run_files import LARGEST_STEP
from cyclevar.core.weights.checkpoints import is_finite

_Parts = Mapping[str, nn.Module | Optimizer]

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""Fields that AdamW keeps per parameter. The first two have the parameter's shape, the last is one number."""

DUE = ("log", "validate", "sample")
"""What may still be due after the step of a checkpoint."""


def read_step(metadata: Mapping[str, Any]) -> int:
    """Return the number of updates in a checkpoint's metadata. Raises `CheckpointError` if it is no such number."""
    step = metadata.get("step")
    if type(step) is not int or not 0 <= step <= LARGEST_STEP:
        raise CheckpointError(f"its step is {_shown(step)}", expected=f"a whole number from 0 to {LARGEST_STEP:.0e}")
    return step


def read_score(metadata: Mapping[str, Any]) -> float:
    """Return the score of a best state. Raises `CheckpointError` if it is not a finite number."""
    score = metadata.get("score")
    if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
        raise CheckpointError(f"its score is {_shown(score)}", expected="a finite number")
    return float(score)


def check_metadata(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], step: int) -> None:
    """Raise `CheckpointError` unless a checkpoint's metadata are those of ``step`` and of its ``tensors``."""
    if read_step(metadata) != step:
        raise CheckpointError(f"its step is {metadata['step']}", expected=f"{step}, as in its name")
    moments: Any = metadata.get("moments")
    if not _is_table(moments, lambda rows: isinstance(rows, list) and all(type(row) is int for row in rows)):
        raise CheckpointError(
            "it does not say which optimizer moments it holds", expected="a checkpoint of this version"
        )
    for optimizer, rows in moments.items():
        for name in (f"{optimizer}/{row}/{field}" for row in rows for field in MOMENTS):
            if name not in tensors:
                raise CheckpointError(f"the optimizer moment {name} is missing")
    due, meter = metadata.get("due", []), metadata.get("meter", {})
    if not (isinstance(due, list) and all(name in DUE for name in due)):
        raise CheckpointError(f"what is due after it is {_shown(due)}", expected=f"some of {', '.join(DUE)}")
    if not _is_table(meter, _is_sum_and_count):
        raise CheckpointError(f"its sums of metrics are {_shown(meter)}", expected="a sum and a count per name")


def check_random(tensors: Mapping[str, Tensor]) -> None:
    """Raise `CheckpointError` unless there is a random state that torch's generators accept."""
    devices = {"random/cpu": "cpu"}
    if torch.cuda.is_available() and "random/cuda" in tensors:  # missing if the run was on a CPU before
        devices["random/cuda"] = "cuda"
    for name, device in devices.items():
        if name not in tensors:
            raise CheckpointError(f"the random state {name} is missing")
        generator, state = torch.Generator(device), tensors[name]
        usual = generator.get_state()
        if state.dtype != usual.dtype or state.shape != usual.shape:
            raise CheckpointError(f"the random state {name} is {_show(state)}", expected=_show(usual))
        try:
            generator.set_state(state)
        except RuntimeError as error:
            raise CheckpointError(f"the random state {name} is not one ({str(error).splitlines()[0]})") from error


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise `CheckpointError` naming the first tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise CheckpointError(f"{name} is not finite")


def list_moments(parts: _Parts) -> dict[str, list[int]]:
    """Return the numbers of the parameters that each optimizer has moments of, for `check_metadata`."""
    return {name: sorted(part.state_dict()["state"]) for name, part in parts.items() if isinstance(part, Optimizer)}


def find_misfit(parts: _Parts, tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return the first part that a state does not fit, and why: names, shapes and dtypes are compared.

    None if it fits. `check_random` checks the random state, `check_metadata` which moments there are.
    """
    by_part: dict[str, dict[str, Tensor]] = {name: {} for name in parts}
    for name, tensor in tensors.items():
        owner, _, rest = name.partition("/")
        if owner in by_part:
            by_part[owner][rest] = tensor
        elif owner != "random":
            return owner, f"the run has no such part, but the state holds {name}"
    for name, part in parts.items():
        check = (
            _check_module(part, by_part[name]) if isinstance(part, nn.Module) else _check_moments(part, by_part[name])
        )
        for problem in check:
            return name, problem
    return None


def _check_module(module: nn.Module, found: Mapping[str, Tensor]) -> Iterator[str]:
    expected = module.state_dict()
    yield from (f"{name} is missing" for name in expected if name not in found)
    yield from (f"{name} is unknown" for name in found if name not in expected)
    for name, tensor in expected.items():
        yield from _compare(name, found[name], tensor)


def _check_moments(optimizer: Optimizer, found: Mapping[str, Tensor]) -> Iterator[str]:
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    rows: dict[str, set[str]] = {}
    for name, tensor in found.items():
        row, _, field = name.partition("/")
        if not (row.isascii() and row.isdecimal() and int(row[:9]) < len(parameters) and len(row) < 9):
            yield f"{name} is unknown, there are {len(parameters)} parameters"
            return
        if field not in MOMENTS:
            yield f"{name} is unknown"
            return
        rows.setdefault(row, set()).add(field)
        if field == "step":
            if tensor.shape != () or not tensor.is_floating_point() or not 0 <= float(tensor) <= LARGEST_STEP:
                yield f"{name} is {_show(tensor)}, expected one number of updates"
        else:
            yield from _compare(name, tensor, parameters[int(row)])
    yield from (f"{row}/{field} is missing" for row, fields in rows.items() for field in MOMENTS if field not in fields)


def _compare(name: str, found: Tensor, expected: Tensor) -> Iterator[str]:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        yield f"{name} is {_show(found)}, expected {_show(expected)}"


def _show(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _is_table(value: Any, is_row: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(is_row, value.values()))


def _is_sum_and_count(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 2 and all(type(one) in (int, float) for one in value)
    return numbers and math.isfinite(value[0]) and type(value[1]) is int and value[1] > 0


def _shown(value: object) -> str:
    return "missing" if value is None else brief(repr(value))
