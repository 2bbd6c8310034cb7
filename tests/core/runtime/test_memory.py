"""The account of memory, and what running out of it looks like."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from cyclevar.core.diagnostics.memory_ledger import Ledger, tensors_of
from cyclevar.core.errors import MemoryShortageError
from cyclevar.core.runtime.allocator import group_limit
from cyclevar.core.runtime.memory import explained, out_of_memory


def weightless(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).to("meta")


def test_what_is_alive_is_counted_by_stage_and_forgotten() -> None:
    ledger = Ledger()
    with ledger.running():
        with ledger.stage("one"):
            kept = torch.zeros(100)
        with ledger.stage("two"):
            other = torch.zeros(50)
            view = kept[:10] + 1
        del other
    assert +ledger.live == {"activations: one": 400, "activations: two": 40}
    assert ledger.at_peak["activations: two"] == 240
    del kept, view
    assert sum(ledger.live.values()) == 0


def test_what_autograd_keeps_is_counted() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    ledger, fake = Ledger(), weightless(net)
    ledger.take_weight(fake)
    ledger.count("weights", tensors_of(fake))
    assert ledger.live["weights"] == 4 * sum(parameter.numel() for parameter in net.parameters())
    with ledger.running():
        out = fake(torch.zeros(32, 8))
        with_graph = sum(ledger.live.values())
        out = out.detach()
    # its input and the middle, whose ReLU gives what it keeps
    assert with_graph - sum(ledger.live.values()) == 4 * 32 * (8 + 16)
    with ledger.running(), torch.no_grad():
        fake(torch.zeros(32, 8))
    assert ledger.at_peak["activations: other"] == 4 * 32 * (8 + 16 + 16) + out.nbytes


def test_gradients_and_states_are_those_of_the_optimizer_step() -> None:
    fake, ledger = weightless(nn.Linear(10, 10)), Ledger()
    optimizer = torch.optim.AdamW(fake.parameters())
    ledger.take_weight(fake, [optimizer])
    assert [id(one) for one in optimizer.param_groups[0]["params"]] == [id(one) for one in fake.parameters()]
    with ledger.running():
        fake(torch.zeros(1, 10)).sum().backward()
        optimizer.step()
    ledger.count("optimizer", (one for state in optimizer.state.values() for one in state.values()))
    assert ledger.live["optimizer"] == 2 * 4 * 110 + 2 * 4  # two moments, and a counter a tensor
    assert all(parameter.grad is not None for parameter in fake.parameters())


def test_what_shares_memory_shares_it_still() -> None:
    one, other = weightless(nn.Linear(4, 4)), weightless(nn.Linear(4, 4))
    other.weight.data = one.weight.data  # type: ignore[union-attr]
    ledger = Ledger()
    ledger.take_weight(nn.ModuleList([one, other]))
    ledger.count("weights", [*tensors_of(one), *tensors_of(other)])
    assert ledger.live["weights"] == 4 * (16 + 4 + 4)


def test_whoever_asks_for_a_value_is_told_something() -> None:
    real = torch.tensor(7)
    with Ledger().running():
        assert float(torch.zeros(())) == 0.5
        assert int(torch.zeros((), dtype=torch.int64)) == 0
        assert bool(torch.zeros(3).isfinite().all())
        assert int(real) == 7


def test_running_out_of_memory_is_recognised() -> None:
    code = """
import resource, torch
from cyclevar.core.runtime.memory import out_of_memory
resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
try:
    torch.zeros(2**40)
except RuntimeError as error:
    print(out_of_memory(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not out_of_memory(RuntimeError("a matrix has a wrong shape"))
    assert not out_of_memory(ValueError("cannot allocate memory"))


class Found:
    needed = "7.5 GB for a pass"
    savings = ("--batch 1", "--size 64")


def test_the_error_tells_what_is_needed_and_what_needs_less() -> None:
    with pytest.raises(MemoryShortageError) as caught, explained(Found):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nmore")
    assert str(caught.value) == (
        "there is too little memory (DefaultCPUAllocator: can't allocate memory); expected 7.5 GB for a pass, besides "
        "the process itself; try --batch 1, --size 64."
    )
    with pytest.raises(RuntimeError, match="shape"), explained(Found):
        raise RuntimeError("shape")
    with pytest.raises(MemoryShortageError, match=r"^a process died; expected 7\.5 GB"), explained(Found):
        raise MemoryShortageError("a process died")


def test_an_estimate_that_finds_no_room_either() -> None:
    def no_room() -> Found:
        raise MemoryError

    with pytest.raises(MemoryShortageError, match=r"too little memory.*end other programs"), explained(no_room):
        raise RuntimeError("Resource temporarily unavailable")


def test_a_limit_of_the_free_memory_ends_with_its_block() -> None:
    code = """
import resource, torch
from cyclevar.core.runtime.allocator import within_free_memory
before = resource.getrlimit(resource.RLIMIT_DATA)
with within_free_memory():
    kept = []
    try:
        while True:
            kept.append(torch.empty(2**28))  # untouched, so that the machine is never short of memory
    except RuntimeError as error:
        print("allocate memory" in str(error), 0 < len(kept))
print(resource.getrlimit(resource.RLIMIT_DATA) == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/job/step", {"job/memory.max": "4000", "job/step/memory.max": "max"}, 4000),
        ("0::/", {"memory.max": "3000"}, 3000),
        ("0::/../other", {}, None),
        (
            "5:cpu,cpuacct:/job\n4:memory:/job",
            {"memory/job/memory.limit_in_bytes": "2000", "memory/memory.limit_in_bytes": "9223372036854771712"},
            2000,
        ),
        ("4:memory:/not/seen/inside", {"memory/memory.limit_in_bytes": "1000"}, 1000),
    ],
)
def test_limits_of_containers_and_jobs(groups: str, files: dict[str, str], limit: int | None, tmp_path: Path) -> None:
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{n}": t for n, t in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert group_limit(tmp_path) == limit


def test_no_control_groups(tmp_path: Path) -> None:
    assert group_limit(tmp_path) is None
