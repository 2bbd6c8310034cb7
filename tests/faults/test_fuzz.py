"""Bytes, settings, schedules and names that nobody would write: what comes of them is an error of ours, or sense."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import cyclevar
from cyclevar.core.config.base import Settings, validate
from cyclevar.core.config.files import apply_overrides, load_yaml
from cyclevar.core.config.pretraining import PretrainConfig
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.errors import CheckpointError, ConfigError
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.core.training.run_folder import RunFolder
from cyclevar.core.weights.checkpoints import load_metadata, load_published, load_tensors

SLOW = os.environ.get("CYCLEVAR_SLOW", "0") not in ("", "0")
fuzz = settings(
    max_examples=600 if SLOW else 60,
    deadline=None,
    derandomize=not SLOW,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

STATE = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.arange(3), "half": torch.ones(2).bfloat16()}


def saved(zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save({"trainer": {"vae": STATE}, "epoch": 3}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


FILES = {
    "state.safetensors": safetensors.torch.save(STATE, {"step": "3", "config": '{"a": [1, 2]}'}),
    "zip.pth": saved(zipped=True),
    "bare.pth": saved(zipped=False),
    "model.safetensors.index.json": json.dumps({"weight_map": dict.fromkeys(STATE, "state.safetensors")}).encode(),
}
TOLD = b'{"weight_map":}[]"../data.pklPK\x03\x04\x80\x02cposix\nsystem\n\xff\x00F64dtypeshape'


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file with bytes changed, cut out, put in and cut off."""
    result = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(result) - 1, 0)))
        match draw(st.sampled_from(["change", "cut", "insert", "truncate", "repeat"])):
            case "change":
                result[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
            case "cut":
                del result[at : at + draw(st.integers(1, 64))]
            case "insert":
                start = draw(st.integers(0, len(TOLD) - 1))
                result[at:at] = TOLD[start : start + draw(st.integers(1, 16))]
            case "truncate":
                del result[at:]
            case _:
                result[at:at] = result[at : at + draw(st.integers(1, 64))]
    return bytes(result)


def is_sense(read: Callable[[], Any]) -> None:
    """Nothing but `CheckpointError` comes of reading."""
    with contextlib.suppress(CheckpointError):
        assert isinstance(read(), dict | tuple)


@pytest.mark.parametrize("name", FILES)
@fuzz
@given(data=st.data())
def test_checkpoints_with_damaged_bytes(tmp_path: Path, name: str, data: st.DataObject) -> None:
    for other, content in FILES.items():
        (tmp_path / other).write_bytes(content)
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(FILES[name]) | st.binary(max_size=300)))
    if path.suffix == ".json":
        is_sense(lambda: load_published(tmp_path))
        return
    is_sense(lambda: load_published(path, [("model",), ("trainer", "vae")]))
    if path.suffix == ".safetensors":
        is_sense(lambda: load_tensors(path))
        is_sense(lambda: load_metadata(path))


@fuzz
@given(data=st.data())
def test_run_folders_with_damaged_states(tmp_path: Path, data: st.DataObject) -> None:
    """What was saved before is restored, or an error says that nothing can be."""
    folder, net = RunFolder(tmp_path / "run"), nn.Linear(2, 2)
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    for left in folder.checkpoints.iterdir():
        left.unlink()
    for step in (1, 2):
        net.weight.data.fill_(step)
        folder.save(step, {"net": net}, keep=2)
    folder.manifest.finish()
    chosen = data.draw(st.sampled_from([folder.saved()[-1], folder.manifest.path]))
    chosen.write_bytes(data.draw(damaged(chosen.read_bytes())))
    restored = folder.restore({"net": net})
    assert restored == (2 if chosen.exists() else 1)  # a damaged manifest condemns no state
    assert (net.weight == restored).all()


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
KEYS = st.sampled_from(
    [*TrainConfig.model_fields, *PretrainConfig.model_fields, "steps", "save_every", "settings", "learning_rate", "x.y"]
)
TREES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=4)
)


def settled(kind: type[Settings], given: Any) -> Settings | None:
    with contextlib.suppress(ConfigError):
        return validate(kind, given)
    return None


@fuzz
@given(given=st.dictionaries(KEYS, TREES, max_size=5), kind=st.sampled_from([TrainConfig, PretrainConfig]))
def test_settings(given: Any, kind: type[Settings]) -> None:
    found = settled(kind, given)
    if found is not None:
        assert validate(kind, found.model_dump()) == found


@fuzz
@given(overrides=st.lists(st.text(max_size=20) | st.tuples(KEYS, TREES).map(lambda p: f"{p[0]}={p[1]}"), max_size=3))
def test_settings_on_the_command_line(overrides: list[str]) -> None:
    try:
        given = apply_overrides({}, overrides)
    except ConfigError:
        return
    settled(TrainConfig, given)


@fuzz
@given(content=st.binary(max_size=60) | st.text(alphabet="a:{}[]-?!&*#|>'\" \n\t1.e", max_size=40).map(str.encode))
def test_settings_in_a_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    try:
        given = load_yaml(path)
    except ConfigError:
        return
    settled(TrainConfig, given)


@fuzz
@given(text=st.text(max_size=20) | st.text(alphabet="0123456789x-,_ ", max_size=30) | st.just("1" * 5000))
def test_schedules(text: str) -> None:
    try:
        found = ScaleSchedule.parse(text)
    except ConfigError:
        return
    assert ScaleSchedule.parse(str(found)) == found
    assert found.total == sum(h * w for h, w in found.sizes)


@pytest.fixture(scope="module")
def tables() -> dict[tuple[str, str], Any]:
    """Family and part -> our state dict, the name table, and the state dict under published names."""
    small: dict[str, Any] = {"backbone": {"depth": 1, "width": 32, "heads": 2}, "schedule": "1-2-3-4"}
    found = {}
    with torch.random.fork_rng(devices=[]):
        for family in ("var", "flexvar", "infinity"):
            model = cyclevar.build(family, "tiny", **small)
            for part, whole in model.export_official().items():
                found[family, part] = model.get_submodule(part).state_dict(), getattr(model.official, part), whole
    return found


@pytest.mark.parametrize("family", ["var", "flexvar", "infinity"])
@pytest.mark.parametrize("part", ["tokenizer", "backbone"])
@settings(fuzz, max_examples=200 if SLOW else 20)
@given(data=st.data())
def test_name_tables(tables: dict[tuple[str, str], Any], family: str, part: str, data: st.DataObject) -> None:
    """A published file with names and shapes changed is refused by name; one that is whole comes back as it was."""
    expected, table, whole = tables[family, part]
    state: dict[str, Tensor] = dict(whole)
    changed = data.draw(st.integers(0, 3))
    for _ in range(changed):
        name = data.draw(st.sampled_from(sorted(state)))
        match data.draw(st.sampled_from(["drop", "rename", "reshape", "retype"])):
            case "drop":
                del state[name]
            case "rename":
                state[data.draw(st.text(max_size=6)) or "x"] = state.pop(name)
            case "reshape":
                state[name] = torch.zeros(data.draw(st.lists(st.integers(0, 3), max_size=4)))
            case _:
                state[name] = state[name].to(data.draw(st.sampled_from([torch.float64, torch.bfloat16, torch.int32])))
    with contextlib.suppress(CheckpointError):
        ours = table.to_ours(state, expected, what="the file")
        assert {name: value.shape for name, value in ours.items()} == {name: expected[name].shape for name in ours}
        if not changed:
            assert all(torch.equal(value, expected[name]) for name, value in ours.items())


@fuzz
@given(content=damaged(saved(zipped=True)))
def test_nothing_is_unpickled_from_damaged_archives(tmp_path: Path, content: bytes) -> None:
    """Whatever the pickle inside has become, opening it makes no file and loads no module of the sort."""
    path, trace = tmp_path / "file.pth", tmp_path / "trace"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02cpathlib\nPath\n(X\x05\x00\x00\x00tracet" + content[:40])
    is_sense(lambda: load_published(path))
    assert not trace.exists()
