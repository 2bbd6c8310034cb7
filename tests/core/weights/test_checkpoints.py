"""Files are whole or absent, and what is read from others runs no code."""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cyclevar.core.errors import CheckpointError
from cyclevar.core.runtime.files import concerns_one_file, remove_abandoned, save_text, write_atomically
from cyclevar.core.weights import checkpoints
from cyclevar.core.weights.checkpoints import check_numbers, is_finite, load_published, load_tensors, save_tensors


def tensors() -> dict[str, Tensor]:
    return {
        "float": torch.randn(3, 4),
        "half": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "whole": torch.arange(5),
        "bits": torch.tensor([True, False]),
        "none": torch.empty(0, 7),
        "scalar": torch.tensor(2.5),
    }


class TestWriting:
    def test_tensors_and_metadata_come_back(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "folder" / "file.safetensors"
        metadata = {"step": 3, "config": {"a": [1, None, "ü"]}}
        save_tensors(path, tensors() | {"view": torch.arange(6.0).view(2, 3).T}, metadata)
        loaded, header = load_tensors(path)
        assert header == metadata
        for name, tensor in tensors().items():
            assert loaded[name].dtype == tensor.dtype
            assert loaded[name].shape == tensor.shape
        assert torch.equal(loaded["view"], torch.arange(6.0).view(2, 3).T)
        assert [entry.name for entry in path.parent.iterdir()] == ["file.safetensors"]

    @pytest.mark.parametrize(
        "error",
        [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), safetensors.SafetensorError("No space left on device")],
    )
    def test_on_a_full_disk_the_earlier_file_survives(self, tmp_path: Path, error: Exception) -> None:
        path = tmp_path / "file.txt"
        save_text(path, "before")

        def write(partial: Path) -> None:
            partial.write_text("half of wh", encoding="utf-8")
            raise error

        with pytest.raises(CheckpointError, match=r"file.txt could not be saved \(.*No space left .* untouched"):
            write_atomically(path, write)
        assert path.read_text(encoding="utf-8") == "before"
        assert list(tmp_path.iterdir()) == [path]

    def test_when_interrupted_the_earlier_file_survives(self, tmp_path: Path) -> None:
        path = tmp_path / "file.txt"
        save_text(path, "before")

        def write(partial: Path) -> None:
            partial.write_text("half of wh", encoding="utf-8")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, write)
        assert path.read_text(encoding="utf-8") == "before"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_file_where_a_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("", encoding="utf-8")
        with pytest.raises(CheckpointError, match="could not be saved"):
            save_text(tmp_path / "taken" / "file.txt", "text")

    @pytest.mark.parametrize(
        ("number", "hint"),
        [
            (errno.ENOSPC, "free some disk space"),
            (errno.EDQUOT, "free some disk space"),
            (errno.EROFS, "the file system is read-only"),
            (errno.ENAMETOOLONG, "the name is too long"),
            (errno.EACCES, "there is no permission"),
            (errno.EPERM, "there is no permission"),
            (errno.EMFILE, "too many files are open"),
            (errno.EIO, "the disk or the network has a fault"),
        ],
    )
    def test_causes_are_told_apart(self, tmp_path: Path, number: int, hint: str) -> None:
        rust = safetensors.SafetensorError(f"Error while serializing: I/O error: ... (os error {number})")
        for error in (OSError(number, os.strerror(number)), rust):

            def write(_: Path, error: Exception = error) -> None:
                raise error

            with pytest.raises(CheckpointError) as caught:
                write_atomically(tmp_path / "a", write)
            assert f"({os.strerror(number)}); {hint}" in str(caught.value)
            one = number in (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM)
            assert concerns_one_file(caught.value) == one
        assert list(tmp_path.iterdir()) == []

    def test_a_name_as_long_as_the_file_system_takes(self, tmp_path: Path) -> None:
        path = tmp_path / ("a" * 255)
        save_text(path, "text")
        assert path.read_text(encoding="utf-8") == "text"
        with pytest.raises(CheckpointError, match="the name is too long"):
            save_text(tmp_path / ("a" * 256), "text")

    def test_a_folder_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        with pytest.raises(CheckpointError, match="is in the way") as caught:
            save_text(tmp_path / "a", "text")
        assert concerns_one_file(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_two_writers_of_one_file(self, tmp_path: Path) -> None:
        """The second begins while the first is in the middle; each replaces the file by a whole one."""
        path = tmp_path / "a"

        def first(partial: Path) -> None:
            partial.write_text("first, half of", encoding="utf-8")
            save_text(path, "second")
            assert path.read_text(encoding="utf-8") == "second"
            partial.write_text("first, whole", encoding="utf-8")

        write_atomically(path, first)
        assert path.read_text(encoding="utf-8") == "first, whole"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_killed_writer_harms_no_other_and_is_cleaned_up(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        code = (
            "import os, signal, sys\nfrom pathlib import Path\n"
            "from cyclevar.core.runtime.files import write_atomically\n"
            "def half(partial):\n    partial.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
            "write_atomically(Path(sys.argv[1]), half)\n"
        )

        def write(partial: Path) -> None:
            partial.write_text("whole", encoding="utf-8")
            done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
            assert done.returncode == -signal.SIGKILL

        write_atomically(path, write)
        assert path.read_text(encoding="utf-8") == "whole"
        [left] = [one for one in tmp_path.iterdir() if one != path]
        own = left.with_name(re.sub(r"-\d+-", f"-{os.getpid()}-", left.name))
        foreign = left.with_name(".00000000-1-00000000.partial")
        own.touch()
        foreign.touch()
        remove_abandoned(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([path, own, foreign])


class TestReadingOurs:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "file.safetensors"
        save_tensors(path, tensors(), {"step": 1})
        return path

    @pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
    def test_a_truncated_file(self, path: Path, kept: int) -> None:
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(CheckpointError, match=r"damaged or not a safetensors file .* use an earlier checkpoint"):
            load_tensors(path)

    def test_an_altered_file(self, path: Path) -> None:
        path.write_bytes(path.read_bytes().replace(b'"BOOL"', b'"BOIL"'))
        with pytest.raises(CheckpointError, match="damaged"):
            load_tensors(path)

    def test_a_file_of_another_kind(self, path: Path) -> None:
        path.write_text("version https://git-lfs.github.com/spec/v1", encoding="utf-8")
        with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
            load_tensors(path)

    def test_metadata_of_somebody_else(self, path: Path) -> None:
        safetensors.torch.save_file({"w": torch.zeros(1)}, path, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=r"metadata .* expected a file that cyclevar wrote"):
            load_tensors(path)
        assert load_published(path).keys() == {"w"}

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="is not a file"):
            load_tensors(tmp_path / "missing.safetensors")
        with pytest.raises(CheckpointError, match="is not a file"):
            load_tensors(tmp_path)


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.trace,)


class TestReadingPublished:
    STATE: ClassVar = {"w": torch.arange(3.0), "b": torch.arange(4)}

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "file.pth"

    def check(self, loaded: dict[str, Tensor]) -> None:
        assert loaded.keys() == self.STATE.keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in self.STATE.items())

    @pytest.mark.parametrize("mapped", [True, False])
    def test_plain_tensors(self, path: Path, mapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: dict[str, Any] = {}
        load = torch.load

        def recorded(*arguments: Any, **settings: Any) -> Any:
            asked.update(settings)
            return load(*arguments, **settings)

        monkeypatch.setattr(torch, "load", recorded)
        torch.save(self.STATE, path, _use_new_zipfile_serialization=mapped)  # older versions cannot be mapped
        loaded = load_published(path)
        self.check(loaded)
        assert asked["weights_only"] is True
        assert asked["mmap"] is mapped
        loaded["w"].zero_()
        self.check(load_published(path))

    def test_safetensors(self, path: Path) -> None:
        path = path.with_suffix(".safetensors")
        safetensors.torch.save_file(self.STATE, path)
        self.check(load_published(path))

    def test_state_dicts_nested_in_training_checkpoints(self, path: Path) -> None:
        torch.save({"epoch": 3, "trainer": {"var": self.STATE, "vae": {"other": torch.zeros(1)}}}, path)
        self.check(load_published(path, [("model",), ("trainer", "var")]))
        with pytest.raises(CheckpointError, match=r"not a state dict \(it holds epoch, trainer\)"):
            load_published(path, [("model",), ("epoch", "var")])
        torch.save(self.STATE, path)
        self.check(load_published(path, [("model",), ("trainer", "var")]))

    @pytest.mark.parametrize("zipped", [True, False])
    def test_foreign_code_is_not_run(self, path: Path, zipped: bool) -> None:
        trace = path.with_name("trace")
        torch.save(self.STATE | {"x": Malicious(trace)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"holds more than plain tensors .* convert it to safetensors"):
            load_published(path)
        assert not trace.exists()
        torch.load(path, weights_only=False)
        assert trace.exists()

    def test_a_bare_malicious_pickle_is_not_run(self, path: Path) -> None:
        trace = path.with_name("trace")
        path.write_bytes(pickle.dumps(Malicious(trace), protocol=2))
        with pytest.raises(CheckpointError, match="holds more than plain tensors"):
            load_published(path)
        assert not trace.exists()

    def test_other_objects_are_refused(self, path: Path) -> None:
        torch.save({"args": argparse.Namespace(a=1), "w": torch.zeros(1)}, path)
        with pytest.raises(CheckpointError, match="holds more than plain tensors"):
            load_published(path)

    @pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"version https://git-lfs"])
    def test_files_of_another_kind(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"cannot be read as a PyTorch checkpoint \(it is something else\)"):
            load_published(path)

    def test_a_truncated_file(self, path: Path) -> None:
        torch.save(self.STATE, path)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match=r"cannot be read as a PyTorch checkpoint .* download it again"):
            load_published(path)

    @pytest.mark.filterwarnings("ignore")  # torch warns of sparse and quantized tensors as such
    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("kind", ["sparse coo", "sparse csr", "quantized", "meta"])
    def test_tensors_that_are_not_dense(self, path: Path, kind: str, zipped: bool) -> None:
        special = {
            "sparse coo": lambda: torch.eye(3).to_sparse(),
            "sparse csr": lambda: torch.eye(3).to_sparse_csr(),
            "quantized": lambda: torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8),
            "meta": lambda: torch.empty(3, device="meta"),
        }[kind]()
        torch.save(self.STATE | {"z": special}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=rf"z in {path} is a {kind} tensor; expected dense tensors"):
            load_published(path)

    @pytest.mark.parametrize(("content", "shown"), [([1, 2], "list"), ({"w": torch.zeros(1), "n": 3}, "w, n")])
    def test_what_is_no_state_dict(self, path: Path, content: object, shown: str) -> None:
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=rf"is not a state dict \(it holds {shown}\)"):
            load_published(path)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_tensors_of_a_large_file_are_mapped_piece_by_piece(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {f"part {i}": torch.randn(50 + i) for i in range(9)}
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        checkpoints.save_tensors(path, state)
    monkeypatch.setattr(checkpoints, "MAPPED", 500)
    found = checkpoints.load_published(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    path.write_bytes(bytes(path.stat().st_size))  # nothing of it is looked at again
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def shards(folder: Path) -> dict[str, torch.Tensor]:
    state = {f"part {i}": torch.randn(3) for i in range(4)}
    names = list(state)
    for number, part in enumerate((names[:1], names[1:])):
        checkpoints.save_tensors(folder / f"{number}.safetensors", {name: state[name] for name in part})
    files = {name: "0.safetensors" if name == names[0] else "1.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return state


def test_a_folder_of_shards(tmp_path: Path) -> None:
    state = shards(tmp_path)
    found = checkpoints.load_published(tmp_path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_shards_that_are_not_whole(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no weights in shards; expected model.safetensors.index.json or"):
        checkpoints.load_published(tmp_path)
    shards(tmp_path)
    checkpoints.save_tensors(tmp_path / "1.safetensors", {"part 1": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"1.safetensors lacks part 2; expected what the index says"):
        checkpoints.load_published(tmp_path)
    (tmp_path / "1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1.safetensors is not a file"):
        checkpoints.load_published(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"index.json is damaged \(KeyError\('weight_map'\)\)"):
        checkpoints.load_published(tmp_path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "link.safetensors"])
def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside.safetensors"
    checkpoints.save_tensors(outside, {"w": torch.zeros(1)})
    folder.mkdir()
    (folder / "link.safetensors").symlink_to(outside)
    named = str(outside) if name.startswith("/") else name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": named}}))
    with pytest.raises(CheckpointError, match=r"index.json names .*, which leads out of its folder"):
        checkpoints.load_published(folder)


@pytest.mark.parametrize("files", [{"w": "."}, {"w": "sub"}])
def test_an_index_names_files_alone(tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(CheckpointError, match="is not a file"):
        checkpoints.load_published(tmp_path)


@pytest.mark.parametrize("content", ['{"weight_map": {"w": 3}}', '{"weight_map": 3}', "[" * 100000, "[]", "\xff"])
def test_an_index_that_is_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"index.json is damaged .*; download it again"):
        checkpoints.load_published(tmp_path)


def test_what_is_written_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "file").symlink_to(tmp_path / "precious")
    save_text(tmp_path / "file", "new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_finite_numbers_of_any_type(dtype: torch.dtype) -> None:
    tensor = torch.full((70, 1000), 100.0).to(dtype)  # a sum of halves overflows
    assert is_finite(tensor)
    tensor[3, 7] = math.nan
    assert not is_finite(tensor)
    if dtype != torch.float8_e4m3fn:  # which has no infinity
        tensor[3, 7] = -math.inf
        assert not is_finite(tensor)


def test_integers_are_finite() -> None:
    assert is_finite(torch.tensor([2**62, 2**62]))
    assert is_finite(torch.zeros(0))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.tensor([1.0, math.nan]), "b in it is not finite; expected weights without NaN and infinity"),
        (torch.tensor([1.0, math.inf]).half(), "b in it is not finite"),
        (torch.tensor([1.0, 1e300], dtype=torch.float64), "b in it is not finite"),  # as float32
        (torch.tensor([1, 2]), "b in it holds int64; expected floating-point numbers"),
        (torch.tensor([True, False]), "b in it holds bool; expected floating-point numbers"),
        (torch.tensor([1j, 2]), "b in it holds complex64; expected floating-point numbers"),
    ],
)
def test_weights_that_are_no_numbers(tensor: Tensor, message: str) -> None:
    expected = {"a": torch.zeros(2), "b": torch.zeros(2), "n": torch.zeros((), dtype=torch.int64)}
    good = {"a": torch.ones(2).half(), "b": torch.ones(2), "n": torch.tensor(3), "more": torch.tensor(math.nan)}
    check_numbers("it", good, expected)
    with pytest.raises(CheckpointError, match=message):
        check_numbers("it", good | {"b": tensor, "c": tensor}, expected)
    with pytest.raises(CheckpointError, match="n in it holds floating-point numbers; expected int64"):
        check_numbers("it", good | {"n": torch.tensor(3.0)}, expected)


def test_equal_files_are_equal_byte_for_byte(tmp_path: Path) -> None:
    tensors = {f"layer.{number}": torch.full((number + 1,), float(number)) for number in range(5)}
    metadata = {"family": "var", "config": {"ü": 'a "b" \\ \n'}, "step": 3, "random": [1, 2], "kept": None}
    found = set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        save_tensors(path, tensors, dict(list(metadata.items())[::-1] if number % 2 else metadata))
        found.add(path.read_bytes())
    assert len(found) == 1
    back, meta = load_tensors(path)
    assert meta == metadata
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
