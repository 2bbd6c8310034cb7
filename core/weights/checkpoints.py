"""Tensors on disk: safetensors files, and safe loading of published ``.pth`` files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cyclevar.core.errors import CheckpointError, brief
from cyclevar.core.runtime.files import inside, write_atomically


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write a safetensors file atomically; ``metadata`` values are stored as JSON."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {name: json.dumps(value) for name, value in (metadata or {}).items()}

    def write(partial: Path) -> None:
        safetensors.torch.save_file(plain, partial, metadata=header)
        _sort_metadata(partial)

    write_atomically(path, write)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in the header of a safetensors file, whose order is random, so that equal files are equal."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None)
        if metadata is None:
            return
        ordered = {"__metadata__": dict(sorted(metadata.items())), **header}
        text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length, "the writer of safetensors leaves more room than a compact header needs"
        file.seek(8)
        file.write(text.ljust(length))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a safetensors file that `save_tensors` wrote: its tensors (on the CPU) and its metadata."""
    tensors, header = _read_safetensors(path)
    return tensors, _parsed(path, header)


def load_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a safetensors file that `save_tensors` wrote, without its tensors."""
    with _refusing_damage(path), safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
    return _parsed(path, header)


def load_shapes(path: Path) -> dict[str, list[int]]:
    """Return the shapes of the tensors in a safetensors file, by name; no tensor is read."""
    with _refusing_damage(path), safetensors.safe_open(path, framework="pt") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _parsed(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    try:
        return {name: json.loads(value) for name, value in header.items()}
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the metadata of {path} cannot be read ({error})",
            expected="a file that cyclevar wrote",
            hint="published files are loaded with Model.load_official",
        ) from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    def some(names: Sequence[str]) -> dict[str, Tensor]:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names}

    with _refusing_damage(path):
        with safetensors.safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
        return _copied(names, some), metadata


@contextlib.contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    require_file(path)
    try:
        yield
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({error})",
            expected="a whole safetensors file",
            hint="use an earlier checkpoint or download it again",
        ) from error


MAPPED = 2**26
"""Bytes that are read of a mapped file before it is mapped anew."""

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""What tells which file of a sharded folder holds which tensor."""


def _copied(names: Sequence[str], some: Callable[[Sequence[str]], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that ``some`` maps from a file by name, in memory of their own.

    A few at a time, each with a mapping of its own: pages that were read stay in memory as long as their mapping lives,
    and a large file would be there twice.
    """
    tensors: dict[str, Tensor] = {}
    while len(tensors) < len(names):
        mapped, read = some(names[len(tensors) :]), 0
        for name in names[len(tensors) :]:
            tensors[name] = mapped[name].clone()
            read += tensors[name].nbytes
            if read >= MAPPED:
                break
        del mapped
    return tensors


def load_published(path: Path, wrappers: Sequence[Sequence[str]] = ()) -> dict[str, Tensor]:
    """A state dict from what was published: ``.safetensors``, a ``.pth`` of plain tensors, or a folder of shards.

    Of a file that holds more than the state dict, only that is read. Nothing is unpickled but tensors and plain
    containers. ``wrappers`` lists key paths under which training checkpoints nest the wanted state dict, such as
    ``("trainer", "vae_local")``.
    """
    if path.is_dir():
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)[0]
    state = _unwrapped(path, wrappers)
    return _copied(list(state), lambda _: _unwrapped(path, wrappers)) if _is_zip(path) else state


def _unwrapped(path: Path, wrappers: Sequence[Sequence[str]]) -> dict[str, Tensor]:
    """The state dict in a file that ``torch.save`` wrote."""
    content = _read_pickle(path)
    for wrapper in wrappers:
        inner = content
        for key in wrapper:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if inner is not None:
            content = inner
            break
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path} is not a state dict (it holds {keys})", expected="names mapped to tensors")
    for name, tensor in content.items():
        kind = _find_special_kind(tensor)
        if kind:
            raise CheckpointError(
                f"{name} in {path} is a {kind} tensor", expected="dense tensors", hint="save it again from dense ones"
            )
    return {str(name): tensor for name, tensor in content.items()}


def _find_special_kind(tensor: Tensor) -> str:
    """Return what is special about a tensor that holds its numbers in another way; empty for a dense one."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout != torch.strided:
        return str(tensor.layout).removeprefix("torch.").replace("_", " ")
    return "quantized" if tensor.is_quantized else "meta" if tensor.is_meta else ""


def _read_shards(folder: Path) -> dict[str, Tensor]:
    """The tensors that a folder's index lists, from its files."""
    index = next((folder / name for name in INDEXES if (folder / name).is_file()), None)
    if index is None:
        raise CheckpointError(
            f"the folder {folder} holds no weights in shards",
            expected=" or ".join(INDEXES),
            hint="name the weights file itself, or the folder that has the index",
        )
    try:
        files: dict[str, str] = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        paths = {file: inside(folder, file) for file in sorted(set(files.values()))}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is damaged ({error!r})", hint="download it again") from error
    state: dict[str, Tensor] = {}
    for file, path in paths.items():
        if path is None:
            raise CheckpointError(
                f"{index} names {brief(file)!r}, which leads out of its folder",
                expected="files beside it",
                hint="do not use it; download it from where it was published",
            )
        require_file(path)
        state |= load_published(path)
    if missing := [name for name in files if name not in state]:
        raise CheckpointError(
            f"{folder / files[missing[0]]} lacks {missing[0]}", expected="what the index says", hint="download it again"
        )
    return state


def _read_pickle(path: Path) -> Any:
    """What ``torch.save`` wrote: a zip archive, which is memory-mapped, or a bare pickle of older versions."""
    require_file(path)
    problem = "it is something else"
    try:
        with path.open("rb") as file:
            start = file.read(1)
        zipped = _is_zip(path)
        if zipped or start == b"\x80":
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than plain tensors and was not opened, since that could run foreign code",
            expected="a state dict of tensors",
            hint="convert it to safetensors where you trust it",
        ) from error
    except Exception as error:  # whatever the reader of a damaged file stumbles over
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise CheckpointError(
        f"{path} cannot be read as a PyTorch checkpoint ({problem})",
        expected="a whole .pth or .safetensors file",
        hint="download it again",
    )


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def digest(module: nn.Module) -> str:
    """16 hex digits over the names and values of a module's tensors."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def is_finite(tensor: Tensor) -> bool:
    """Return whether no number is NaN or infinite. A sum tells it in a tenth of the time, unless it overflows."""
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    tensor = tensor.detach()
    tensor = tensor.float() if tensor.itemsize == 1 else tensor  # sums of 8-bit floats do not exist
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def check_numbers(what: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise `CheckpointError` naming the first tensor that cannot be used as weights.

    NaN and infinity are refused, and integers or booleans where ``expected``, a state dict of the model, has floats,
    or floats where it has integers. One pass over the numbers.
    """
    for name, wanted in expected.items():
        tensor = state.get(name)
        if tensor is None:
            continue
        kinds = [
            "floating-point numbers" if one.is_floating_point() else str(one.dtype).removeprefix("torch.")
            for one in (tensor, wanted)
        ]
        if kinds[0] != kinds[1]:
            raise CheckpointError(
                f"{name} in {what} holds {kinds[0]}", expected=kinds[1], hint="download the file again, or use another"
            )
        if not is_finite(tensor.to(wanted.dtype) if tensor.itemsize > wanted.itemsize else tensor):
            raise CheckpointError(
                f"{name} in {what} is not finite",
                expected="weights without NaN and infinity",
                hint="download the file again, or use an earlier checkpoint",
            )


def require_file(path: Path) -> None:
    """Raise `CheckpointError` unless ``path`` is a file."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file", expected="a weights file", hint="check the path")
