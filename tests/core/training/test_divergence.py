"""What happens to numbers that are not finite, and that they are traced to where they come from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cyclevar.core.config.loop import LoopConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.errors import CheckpointError
from cyclevar.core.training.accelerator import make_accelerator
from cyclevar.core.training.divergence import (
    NonFiniteError,
    Spikes,
    demand_finite,
    demand_finite_state,
    first_module,
    steps_left_out,
)
from cyclevar.core.training.loop import DivergenceError, run
from cyclevar.core.training.optim import descend, make_optimizer
from cyclevar.core.training.run_folder import RunFolder
from cyclevar.core.training.state import Parts, pack_state, random_state
from cyclevar.core.training.task import Task
from cyclevar.core.weights.checkpoints import load_tensors

LOOP = LoopConfig(steps=12, log_every=1, validate_every=100, sample_every=100, save_every=4)
NAN = math.nan


class Wrong(nn.Module):
    """Passes on what it gets; spoils it, or its gradient, when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.what = ""

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "forward":
            return x * NAN
        return Spoilt.apply(x) if self.what == "backward" else x  # type: ignore[no-any-return, no-untyped-call]


class Spoilt(torch.autograd.Function):
    """The identity, with a gradient that is not a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * NAN


class Small(Task):
    """Three layers with a dropout, trained on noise; ``at`` spoils a step."""

    pictures_per_step = 2

    def __init__(self, at: Callable[[Small, int], None] = lambda task, step: None) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Sequential(nn.Tanh(), Wrong()), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-2)
        self.at, self.spoil, self.accelerator = at, nn.Identity(), make_accelerator("cpu", "float32")
        self.updates = list[int]()

    @property
    def wrong(self) -> Wrong:
        found = self.net.get_submodule("2.1")
        assert isinstance(found, Wrong)
        return found

    def parts(self) -> Parts:
        return {"net": self.net, "optimizer": self.optimizer}

    def pictures(self, step: int) -> Mapping[str, Tensor]:
        return {"a": torch.full((2, 4), float(step))}

    def update(self, step: int) -> Mapping[str, float]:
        self.wrong.what = ""
        self.at(self, step)
        self.updates.append(step)
        loss = self.net(torch.randn(2, 4) + self.pictures(step)["a"]).square().mean()
        norm = descend(self.accelerator, loss, self.optimizer)
        return {"loss": float(loss.detach()), "gradient_norm": float(norm)}

    def validate(self, step: int) -> Mapping[str, float]:
        return {"weights": float(self.net[0].weight.detach().norm())}

    def sample(self, step: int) -> list[Tensor]:
        return [torch.zeros(1, 3, 2, 2)]


def spoil(*steps: int, what: str = "forward") -> Callable[[Small, int], None]:
    def at(task: Small, step: int) -> None:
        if step in steps:
            task.wrong.what = what

    return at


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.begin(TrainConfig(), {})
    return folder


def state(task: Task) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in pack_state(task.parts()).items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_figures_are_named() -> None:
    demand_finite({"a": 1.0, "b": -1e300})
    with pytest.raises(NonFiniteError, match=r"^b is nan, c is -inf$"):
        demand_finite({"a": 1.0, "b": NAN, "c": -math.inf})


def test_weights_and_optimizer_states_are_named() -> None:
    task = Small()
    task.update(0)
    demand_finite_state(task.parts())
    task.optimizer.state[task.net[0].bias]["exp_avg"][3] = math.inf
    with pytest.raises(NonFiniteError, match="optimizer/1/exp_avg is not finite"):
        demand_finite_state(task.parts())
    task.net[3].weight.data[0, 1] = NAN
    with pytest.raises(NonFiniteError, match=r"net/3.weight is not finite"):
        demand_finite_state(task.parts())
    large = nn.Linear(4, 4)
    large.weight.data.fill_(3e38)  # whose sum is not finite
    demand_finite_state({"net": large})


def test_an_update_down_a_wrong_gradient_is_not_made() -> None:
    net = nn.Linear(2, 1)
    optimizer = make_optimizer(net, TrainConfig().optimizer)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(NonFiniteError, match="a gradient's norm is nan"):
        descend(make_accelerator("cpu", "float32"), (net(torch.ones(1, 2)) * NAN).sum(), optimizer)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not optimizer.state


def search(task: Small, step: int) -> str | None:
    random = random_state()
    with pytest.raises(NonFiniteError):
        demand_finite(task.update(step))
    return first_module(task, random, lambda: demand_finite(task.update(step)))


def test_the_first_module_is_found() -> None:
    assert search(Small(spoil(3)), 3) == "net.2.1, forward"
    assert search(Small(spoil(3, what="backward")), 3) == "net.2.1, backward"

    def weights(task: Small, step: int) -> None:
        task.net[0].weight.data[0, 0] = NAN

    assert search(Small(weights), 0) == "net.0, forward (its weights are not finite)"

    task = Small()
    task.pictures = lambda step: {"a": torch.full((2, 4), math.inf)}  # type: ignore[method-assign]
    assert search(task, 0) == "net.0, forward (its input was not finite either)"

    task = Small()
    hook = task.net[3].weight.register_hook(lambda gradient: gradient * NAN)
    assert search(task, 0) == "net.3, backward (the gradient of its weight)"
    hook.remove()
    task.update(0)

    class Loss(Small):
        def update(self, step: int) -> Mapping[str, float]:
            loss = self.net(torch.randn(2, 4)).sub(self.net[3].bias).mul(0).sqrt().sum()  # an infinite slope, times 0
            return {"gradient_norm": float(descend(self.accelerator, loss, self.optimizer))}

    assert search(Loss(), 0) == "net.3, backward (from what follows it)"


def test_a_wrong_number_that_does_not_come_again() -> None:
    task = Small()
    random = random_state()
    assert first_module(task, random, lambda: task.update(0)) is None


def test_a_search_leaves_no_hook_behind() -> None:
    from torch.nn.modules import module

    search(Small(spoil(3, what="backward")), 3)
    search(Small(spoil(3)), 3)
    assert not module._global_forward_hooks


def test_the_step_is_kept_with_what_it_saw(folder: RunFolder, display: Any) -> None:
    task = Small(spoil(5))
    seen: dict[int, Mapping[str, Tensor]] = {}
    spoiling = task.at

    def at(task: Small, step: int) -> None:
        seen.setdefault(step, random_state())
        spoiling(task, step)

    task.at = at
    with pytest.raises(DivergenceError) as caught:
        run(task, folder, LOOP, display)
    kept = folder.failures / "step-00000006"
    assert str(caught.value) == (
        "the training diverged in step 6: a gradient's norm is nan (first in net.2.1, forward); expected finite "
        "figures; lower the learning rate and start a new run, or resume this one with --set "
        f"loop.on_divergence=restore; what the step saw is in {kept}; the last checkpoint is {folder.saved()[-1]}."
    )
    assert sorted(path.name for path in kept.iterdir()) == ["batch.safetensors", "config.yaml", "failure.json"]
    tensors, metadata = load_tensors(kept / "batch.safetensors")
    assert metadata == {"step": 6}
    assert torch.equal(tensors["a"], torch.full((2, 4), 5.0))
    assert torch.equal(tensors["random/cpu"], seen[5]["random/cpu"])
    assert (kept / "config.yaml").read_text() == folder.config.read_text()
    assert json.loads((kept / "failure.json").read_text()) == {
        "step": 6,
        "problem": "a gradient's norm is nan",
        "module": "net.2.1, forward",
        "left_out": False,
    }
    assert [path.name for path in folder.saved()] == ["step-00000004.safetensors"]


def test_a_run_goes_on_without_the_step(folder: RunFolder, display: Any, tmp_path: Path) -> None:
    config = LOOP.model_copy(update={"on_divergence": "restore"})
    task = Small(spoil(5, what="backward"))
    run(task, folder, config, display)
    assert [note for note in display.notes if "went wrong" in note] == [
        f"step 6 went wrong in net.2.1, backward (a gradient's norm is nan; {folder.failures / 'step-00000006'}): "
        "going on after step 4 without it, 1 of at most 3 left out"
    ]
    assert task.updates == [0, 1, 2, 3, 4, 5, 5, 4, 6, 7, 8, 9, 10, 11]  # once more to find the module, then restored
    assert steps_left_out(folder) == {6}
    lines = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
    assert lines == [*range(1, 13), 12]

    without = Small()
    other = RunFolder(tmp_path / "other")
    other.begin(TrainConfig(), {})
    (other.failures / "step-00000006").mkdir(parents=True)
    (other.failures / "step-00000006" / "failure.json").write_text('{"step": 6, "left_out": true}')
    run(without, other, LOOP, display)
    assert same(state(task), state(without))


def test_a_resumed_run_leaves_out_the_same_steps(folder: RunFolder, display: Any, tmp_path: Path) -> None:
    config = LOOP.model_copy(update={"on_divergence": "restore"})
    whole = Small(spoil(5))
    run(whole, folder, config, display)

    def power_cut(task: Small, step: int) -> None:
        spoil(5)(task, step)
        if step == 7:
            raise RuntimeError("power cut")

    other = RunFolder(tmp_path / "other")
    other.begin(TrainConfig(), {})
    with pytest.raises(RuntimeError, match="power cut"):
        run(Small(power_cut), other, config, display)
    again = Small(spoil(5))
    run(again, other, config, display)
    assert 5 not in again.updates
    assert same(state(again), state(whole))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '{"step": 6}', '{"step": "x", "left_out": true}', "[" * 100000]
)
def test_a_damaged_note_of_a_step_is_no_guess(folder: RunFolder, content: str) -> None:
    (folder.failures / "step-00000006").mkdir(parents=True)
    (folder.failures / "step-00000006" / "failure.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"failure.json is damaged .* delete it where the run should go on with"):
        steps_left_out(folder)


def test_the_steps_that_are_left_out_are_bounded(folder: RunFolder, display: Any) -> None:
    config = LOOP.model_copy(update={"on_divergence": "restore", "most_restores": 2})
    with pytest.raises(DivergenceError, match=r"diverged in step 8: .*; lower the learning rate and start a new run; "):
        run(Small(spoil(2, 5, 7)), folder, config, display)
    assert steps_left_out(folder) == {3, 6}
    assert [path.name for path in sorted(folder.failures.iterdir())] == [f"step-0000000{step}" for step in (3, 6, 8)]
    demand_finite_state({"net": Small().net})
    fresh = Small()
    assert folder.restore(fresh.parts()) == 4
    demand_finite_state(fresh.parts())


def test_the_very_first_step_may_go_wrong(folder: RunFolder, display: Any) -> None:
    task = Small(spoil(0))
    run(task, folder, LOOP.model_copy(update={"on_divergence": "restore"}), display)
    assert steps_left_out(folder) == {1}
    demand_finite_state(task.parts())


def test_wrong_weights_are_never_saved(folder: RunFolder, display: Any) -> None:
    def at(task: Small, step: int) -> None:
        if step == 7:  # after this update they are saved; nothing of them shows in its figures
            task.net.register_buffer("idle", torch.tensor(NAN))

    with pytest.raises(DivergenceError, match=r"diverged in step 8: net/idle is not finite; expected"):
        run(Small(at), folder, LOOP, display)
    assert [path.name for path in folder.saved()] == ["step-00000004.safetensors"]


def test_wrong_figures_of_a_validation(folder: RunFolder, display: Any) -> None:
    task = Small()
    task.validate = lambda step: {"loss": float(task.wrong(torch.ones(1)) * (NAN if step == 6 else 1))}  # type: ignore[method-assign]
    with pytest.raises(DivergenceError, match="diverged in step 6: loss is nan; expected"):
        run(task, folder, LOOP.model_copy(update={"validate_every": 3}), display)


def test_spikes_are_told_once_for_a_while() -> None:
    spikes = Spikes(10.0)
    usual = {"gradient_norm": 2.0, "loss/gan": 1.0, "loss/discriminator": 0.001, "learning_rate": 0.1}
    for step in range(19):
        assert spikes.look(step, usual) == []
    high = {name: 25 * value for name, value in usual.items()}
    assert spikes.look(19, high) == []  # too few to tell
    assert spikes.look(20, high) == [
        "gradient_norm is 50, 25 times what it was lately",
        "loss/gan is 25, 25 times what it was lately",
    ]
    assert all(spikes.look(step, high if step % 10 == 0 else usual) == [] for step in range(21, 120))
    assert len(spikes.look(120, high)) == 2


def test_a_loss_that_rises_slowly_or_starts_from_nothing_is_no_spike() -> None:
    spikes = Spikes(10.0)
    assert not any(spikes.look(step, {"loss": 1.05**step}) for step in range(300))
    spikes = Spikes(10.0)
    assert not any(spikes.look(step, {"loss": float(step > 30)}) for step in range(60))


def test_a_spike_is_noted_in_a_run(folder: RunFolder, display: Any) -> None:
    task = Small()
    real = task.update
    task.update = lambda step: {**real(step), "loss": 1e6 if step == 30 else 1.0}  # type: ignore[method-assign]
    run(task, folder, LOOP.model_copy(update={"steps": 40, "save_every": 100}), display)
    assert [note for note in display.notes if "lately" in note] == [
        "step 31: loss is 1e+06, 1000000 times what it was lately"
    ]
