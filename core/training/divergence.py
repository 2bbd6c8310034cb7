"""Numbers that go wrong: noticed while they are made, traced to a module afterwards, kept for whoever looks into it."""

from __future__ import annotations

import functools
import json
import math
import shutil
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from cyclevar.core.errors import CheckpointError
from cyclevar.core.report.run_files import RunFiles
from cyclevar.core.runtime.files import save_text
from cyclevar.core.training.state import Parts, pack_state, set_random_state
from cyclevar.core.weights.checkpoints import is_finite, save_tensors


class NonFiniteError(Exception):
    """A loss, gradient or weight that is not finite; the message says which."""


def demand_finite(figures: Mapping[str, float]) -> None:
    """Raise `NonFiniteError` naming the figures that are not finite."""
    wrong = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
    if wrong:
        raise NonFiniteError(", ".join(wrong[:4]))


def demand_finite_state(parts: Parts) -> None:
    """Raise `NonFiniteError` naming the first tensor of a training state that is not finite."""
    for name, tensor in pack_state(parts).items():
        if not is_finite(tensor):
            raise NonFiniteError(f"{name} is not finite")


def first_module(owner: object, random: Mapping[str, Tensor], again: Callable[[], object]) -> str | None:
    """Repeat what went wrong, and tell which module made the first number that is not finite; None where none did.

    ``again`` is what went wrong, ``random`` the random state that it began with. Modules are called by their names in
    the attributes of ``owner``. Nothing is watched but now, so a training that goes well pays nothing for it.
    """
    names = {module: name for name, module in _modules(owner)}
    search = _Search(names)
    set_random_state(random)
    try:
        with register_module_forward_hook(search.look):
            again()
    except (NonFiniteError, _FoundError):
        pass
    finally:
        search.close()
    return search.result()


class _FoundError(Exception):
    """Ends a forward pass whose first wrong number is known."""


class _Search:
    """Follows the values of a forward pass from module to module, and the gradients back."""

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self._names = names
        self._found: str | None = None
        self._reached: dict[nn.Module, str] = {}
        """Modules whose output got a gradient that was not finite already, in the order of the backward pass."""
        self._hooks: list[Any] = []

    def look(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """The forward hook of every module; inner ones come first."""
        if not all(map(is_finite, _tensors(output))):
            reasons = "its weights are not finite" if not all(map(is_finite, module.parameters())) else ""
            reasons = reasons or ("" if all(map(is_finite, _tensors(inputs))) else "its input was not finite either")
            self._found = f"{self._name(module)}, forward" + (f" ({reasons})" if reasons else "")
            raise _FoundError
        for tensors, hook in ((_tensors(output), self._at_output), (_tensors(inputs), self._at_input)):
            self._hooks += [t.register_hook(functools.partial(hook, module)) for t in tensors if t.requires_grad]

    def _at_output(self, module: nn.Module, gradient: Tensor) -> None:
        if not is_finite(gradient):
            self._reached.setdefault(module, self._name(module))

    def _at_input(self, module: nn.Module, gradient: Tensor) -> None:
        if self._found is None and module not in self._reached and not is_finite(gradient):
            self._found = f"{self._name(module)}, backward"

    def result(self) -> str | None:
        if self._found is None and self._reached:
            return f"{next(iter(self._reached.values()))}, backward (from what follows it)"
        if self._found is None:
            for module, name in self._names.items():
                for own, parameter in module.named_parameters(recurse=False):
                    if parameter.grad is not None and not is_finite(parameter.grad):
                        return f"{name}, backward (the gradient of its {own})"
        return self._found

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _name(self, module: nn.Module) -> str:
        return self._names.get(module, type(module).__name__)


def _modules(owner: object) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of all that are attributes of ``owner``, each once."""
    seen = set[nn.Module]()
    for attribute, value in vars(owner).items():
        if isinstance(value, nn.Module):
            yield from value.named_modules(seen, prefix=attribute)


def _tensors(value: Any) -> list[Tensor]:
    """The floating-point tensors in what a module takes or gives, at any depth."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for one in value for tensor in _tensors(one)] if isinstance(value, list | tuple) else []


def keep_failure(
    files: RunFiles,
    step: int,
    problem: str,
    module: str | None,
    pictures: Mapping[str, Tensor],
    random: Mapping[str, Tensor],
    *,
    left_out: bool,
) -> Path:
    """Write what step ``step`` (from 1) saw into a folder of its own: pictures, random state, settings, what was wrong.

    ``left_out``: the run goes on without this step, now and whenever it is resumed (`steps_left_out`).
    """
    folder = files.failures / f"step-{step:08d}"
    save_tensors(folder / "batch.safetensors", {**pictures, **random}, {"step": step})
    if files.config.exists():
        shutil.copy(files.config, folder / "config.yaml")
    told = {"step": step, "problem": problem, "module": module, "left_out": left_out}
    save_text(folder / "failure.json", json.dumps(told, indent=1) + "\n")
    return folder


def steps_left_out(files: RunFiles) -> set[int]:
    """The steps (from 1) that a run goes on without. Raises `CheckpointError` where that cannot be read."""
    found = set[int]()
    for path in files.failures.glob("step-*/failure.json"):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            found |= {int(told["step"])} if told["left_out"] else set()
        except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error!r}), so it is unknown whether the run goes on without that step",
                hint="delete it where the run should go on with the step",
            ) from error
    return found


class Streak:
    """Counts how often something was so in a row."""

    def __init__(self, length: int) -> None:
        self._length, self._count, self._completed = length, 0, False

    def completed_by(self, so: bool) -> bool:
        """Whether this time makes ``length`` in a row, for the first time."""
        self._count = self._count + 1 if so else 0
        first = self._count == self._length and not self._completed
        self._completed |= first
        return first


class Spikes:
    """Notices losses and gradient norms that are far above what they were lately."""

    LATELY, FEW, SILENCE = 50, 20, 100
    """Updates in the running median, how many it needs, and how many pass from one remark on a figure to the next."""

    def __init__(self, factor: float) -> None:
        """``factor``: how many times the median is far above it."""
        self._factor = factor
        self._lately, self._silent_until = dict[str, deque[float]](), dict[str, int]()

    def look(self, step: int, figures: Mapping[str, float]) -> list[str]:
        """Remarks on the figures of a step. A discriminator's loss may rise from nothing, and is not looked at."""
        remarks = []
        for name, value in figures.items():
            if name != "gradient_norm" and (name.split("/")[0] != "loss" or name == "loss/discriminator"):
                continue
            lately = self._lately.setdefault(name, deque(maxlen=self.LATELY))
            usual = statistics.median(lately) if len(lately) >= self.FEW else math.inf
            if value > self._factor * usual > 0 and step >= self._silent_until.get(name, 0):
                self._silent_until[name] = step + self.SILENCE
                remarks.append(f"{name} is {value:.4g}, {value / usual:.0f} times what it was lately")
            lately.append(value)
        return remarks
