"""What the doctor finds: everything in order here; what is broken, missing, full or left out, with what to do."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from cyclevar.core.diagnostics import doctor
from cyclevar.core.diagnostics.doctor import LOOKS, Finding, examine
from cyclevar.core.errors import PluginError
from cyclevar.core.extension.manager import Failure
from cyclevar.core.weights import shipped
from cyclevar.core.weights.hub import FOLDERS


def only(group: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Finding]:
    """The rows of one group by their names."""
    monkeypatch.setattr(doctor, "LOOKS", {group: LOOKS[group]})
    return {finding.name: finding for finding in examine()}


def test_nothing_is_a_problem_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "WATCHED", 0.01)
    findings = examine()
    assert {finding.group for finding in findings} == set(LOOKS)
    assert [finding for finding in findings if finding.state == "problem"] == []
    assert all(finding.advice for finding in findings if finding.state == "note")
    names = {finding.name for finding in findings}
    assert {"version", "threads", "main memory", "allocator", "current folder", "translators", "loading"} <= names
    assert {"inference, forward", "training, backward"} <= names


def test_what_cannot_even_be_looked_at_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[doctor.Row]:
        yield "version", "ok", "2.14", ""
        raise ImportError("libtorch.so: cannot open\nshared object file")

    def refused() -> list[doctor.Row]:
        raise PluginError("cyclevar is not installed", hint="run `pip install -e .`")

    monkeypatch.setattr(doctor, "LOOKS", {"torch": broken, "plugins": refused})
    assert examine() == [
        Finding("torch", "version", "ok", "2.14"),
        Finding(
            "torch",
            "torch",
            "problem",
            "ImportError: libtorch.so: cannot open shared object file",
            "install cyclevar and torch again",
        ),
        Finding(
            "plugins",
            "plugins",
            "problem",
            "PluginError: cyclevar is not installed; run `pip install -e .`.",
            "run `pip install -e .`",
        ),
    ]


class TestDevices:
    """GPUs, as torch would tell of them."""

    def test_none_and_a_driver_that_torch_cannot_use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        monkeypatch.setattr(shutil, "which", lambda name: None)
        assert only("device", monkeypatch)["GPU"].state == "ok"
        monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
        monkeypatch.setattr(torch.version, "cuda", None)
        found = only("device", monkeypatch)["GPU"]
        assert (found.state, found.advice) == ("note", "install a torch that is built with CUDA")
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        assert only("device", monkeypatch)["GPU"].advice == "update the driver"

    def test_one_that_is_almost_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        gpu = SimpleNamespace(name="Test GPU", major=9, minor=0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: gpu)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (70e9, 80e9))
        found = only("device", monkeypatch)["GPU 0"]
        assert (found.state, found.found) == (
            "ok",
            "Test GPU, capability 9.0, 70.0 GB of 80.0 GB free, computes in bf16",
        )
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (5e8, 80e9))
        found = only("device", monkeypatch)["GPU 0"]
        assert (found.state, "500 MB of 80.0 GB" in found.found, "--device cpu" in found.advice) == ("note", True, True)


def test_too_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10**4)
    found = only("torch", monkeypatch)["threads"]
    assert (found.state, found.advice.startswith("set OMP_NUM_THREADS=")) == ("note", True)


def test_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e9, total=8e9))
    found = only("memory", monkeypatch)["main memory"]
    assert (found.state, found.found) == ("note", "1.0 GB of 8.0 GB free")


def test_little_memory_for_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=7e9, total=8e9))
    monkeypatch.setattr("cyclevar.core.runtime.allocator.group_limit", lambda: int(1e9))
    found = only("memory", monkeypatch)["main memory"]
    assert (found.state, found.found) == (
        "note",
        "7.0 GB of 8.0 GB free, of which this container or job may take 1.0 GB",
    )


class TestDisk:
    """Folders that are missing, closed or full."""

    def test_a_model_folder_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv(FOLDERS, f"{tmp_path}:{tmp_path / 'absent' / 'deep'}")
        rows = only("disk", monkeypatch)
        assert rows["CYCLEVAR_MODELS 1"].state == "ok"
        assert rows["CYCLEVAR_MODELS 2"].state == "note"
        assert "not there yet" in rows["CYCLEVAR_MODELS 2"].found
        assert FOLDERS in rows["CYCLEVAR_MODELS 2"].advice

    def test_a_full_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=3e8))
        found = only("disk", monkeypatch)["current folder"]
        assert (found.state, "300 MB free" in found.found, "make room" in found.advice) == ("note", True, True)

    def test_what_cannot_be_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nowhere() -> str:
            raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

        monkeypatch.setattr(tempfile, "gettempdir", nowhere)
        monkeypatch.setattr(doctor.os, "access", lambda path, mode: mode == doctor.os.F_OK and path.exists())
        rows = only("disk", monkeypatch)
        assert rows["temporary files"].state == "problem"
        assert "TMPDIR" in rows["temporary files"].advice
        assert rows["current folder"].state == "note"
        assert "not writable" in rows["current folder"].found


class TestWeights:
    """Shipped translators and published files."""

    def test_published_files_on_this_disk(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv(FOLDERS, str(tmp_path))
        found = only("weights", monkeypatch)["published files"]
        assert "0 of " in found.found
        assert "cyclevar models fetch" in found.advice
        (tmp_path / "var_d16.pth").touch()
        found = only("weights", monkeypatch)["published files"]
        assert ("var_d16.pth" in found.found, found.advice) == (True, "")

    def test_an_installation_without_its_translators(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(shipped, "TRANSLATORS", tmp_path)
        found = only("weights", monkeypatch)["translators"]
        assert (found.state, found.advice) == ("problem", "install cyclevar again")


def test_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    manager: Any = SimpleNamespace(
        plugins=[plugin("var", "cyclevar"), plugin("mine", "cyclevar-mine")],
        failures=[
            Failure("theirs", "cyclevar-theirs 2.0", "ImportError: no module", "repair it"),
            Failure("patchgan", "cyclevar 0.1", "ImportError: no module", "install cyclevar again"),
        ],
        disabled=[Failure("other", "cyclevar-other 1.0", "CYCLEVAR_PLUGINS is empty", "unset it")],
    )
    monkeypatch.setattr("cyclevar.core.extension.manager.get_manager", lambda: manager)
    rows = only("plugins", monkeypatch)
    assert (rows["cyclevar's own"].found, rows["others"].found) == ("var", "mine (cyclevar-mine 1.0)")
    assert (rows["theirs"].state, rows["theirs"].advice) == ("note", "repair it")
    assert (rows["patchgan"].state, rows["other"].state) == ("problem", "note")


def plugin(name: str, distribution: str) -> Any:
    return SimpleNamespace(name=name, distribution=distribution, version="1.0")


def test_the_loader_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "WATCHED", 0.01)
    found = only("data", monkeypatch)["loading"]
    assert found.state == "ok"
    assert int(found.found.split()[0]) > 0
