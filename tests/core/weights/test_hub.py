"""Published files: found on this disk, fetched, and compared with what is known of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from cyclevar.core.config.families import PublishedFile
from cyclevar.core.errors import CheckpointError
from cyclevar.core.weights.hub import FOLDERS, fetch, hub_cache, locate

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = PublishedFile("model.pth", "backbone", ("d16",), "someone/models", "MIT")
FOLDER = replace(FILE, name="shards/")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, no folders."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(FOLDERS, raising=False)


def put_into_cache(name: str, content: bytes = CONTENT, tag: str | None = None) -> Path:
    """A file as the hub's client stores it: content by its tag, and a link by its name."""
    repository = hub_cache() / "models--someone--models"
    blob = repository / "blobs" / (tag or hashlib.sha256(content).hexdigest())
    path = repository / "snapshots" / "abc" / name
    for parent in (blob.parent, path.parent, repository / "refs"):
        parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    path.symlink_to(blob)
    (repository / "refs" / "main").write_text("abc")
    return path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Lets the hub serve ``content``; gives the names that were asked for."""

    def serve(content: bytes = CONTENT, tag: str | None = None) -> list[str]:
        asked: list[str] = []

        def download(repository: str, name: str, *, revision: str, cache_dir: Path, local_dir: Path | None) -> str:
            assert (repository, revision, cache_dir) == ("someone/models", "main", hub_cache())
            asked.append(name)
            if local_dir is None:
                return str(put_into_cache(name, content, tag))
            notes = local_dir / ".cache/huggingface/download" / f"{name}.metadata"
            for file in (local_dir / name, notes):
                file.parent.mkdir(parents=True, exist_ok=True)
            (local_dir / name).write_bytes(content)
            notes.write_text(f"abc\n{tag or SHA256}\n0.0\n")
            return str(local_dir / name)

        def snapshot(
            repository: str, *, revision: str, allow_patterns: str, cache_dir: Path, local_dir: Path | None
        ) -> str:
            assert local_dir is None
            asked.append(allow_patterns)
            paths = [put_into_cache(f"shards/{part}", content + part.encode(), tag) for part in ("a", "b")]
            return str(paths[0].parents[1])

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        return asked

    return serve


def test_folders_go_before_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate(FILE) is None
    cached = put_into_cache("model.pth")
    found = locate(FILE)
    assert found is not None
    assert (found.path, found.where) == (cached, "Hugging Face cache")
    mine = tmp_path / "two" / "model.pth"
    mine.parent.mkdir()
    mine.touch()
    monkeypatch.setenv(FOLDERS, os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")]))
    found = locate(FILE)
    assert found is not None
    assert (found.path, found.where) == (mine, FOLDERS)


def test_folders_may_be_laid_out_by_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDERS, str(tmp_path))
    (tmp_path / "someone/models/shards").mkdir(parents=True)
    found = locate(FOLDER)
    assert found is not None
    assert found.path == tmp_path / "someone/models/shards"
    assert locate(replace(FILE, name="shards")) is None  # a file is meant, and this is a folder


def test_the_cache_is_where_the_hubs_client_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_cache() == Path(os.environ["HF_HUB_CACHE"])
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", "/home/hub")
    assert hub_cache() == Path("/home/hub/hub")
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/cache")
    assert hub_cache() == Path("/home/cache/huggingface/hub")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert hub_cache() == Path("~/.cache/huggingface/hub").expanduser()


def test_what_is_here_is_not_fetched(hub: Callable[..., list[str]]) -> None:
    asked = hub()
    path = put_into_cache("model.pth")
    got = fetch(FILE)
    assert (got.path, got.downloaded, got.verified, asked) == (path, False, "", [])
    assert fetch(replace(FILE, sha256=SHA256)).verified == "pinned"
    with pytest.raises(CheckpointError, match=f"its SHA-256 begins with {SHA256[:16]}; expected 0000"):
        fetch(replace(FILE, sha256="0" * 64))


def test_fetching(hub: Callable[..., list[str]], tmp_path: Path) -> None:
    asked, said = hub(), list[str]()
    got = fetch(FILE, report=said.append)
    assert got.path.read_bytes() == CONTENT
    assert (got.downloaded, got.verified, asked) == (True, "hub", ["model.pth"])
    assert said[0] == "fetching model.pth from huggingface.co/someone/models"
    assert locate(FILE) is not None
    plain = fetch(FILE, tmp_path / "plain")
    assert (plain.path, plain.verified) == (tmp_path / "plain" / "model.pth", "hub")
    assert fetch(replace(FILE, name="other.pth", sha256=SHA256)).verified == "pinned"
    folder = fetch(FOLDER)
    assert (folder.path.name, folder.verified, asked[-1]) == ("shards", "hub", "shards/*")


def test_damage_on_the_way_is_noticed(hub: Callable[..., list[str]], tmp_path: Path) -> None:
    hub(b"other", SHA256)
    for folder in (None, tmp_path / "plain"):
        with pytest.raises(CheckpointError, match=f"is not the published file.* expected {SHA256[:16]}"):
            fetch(FILE, folder)


def test_a_small_file_has_no_hash_to_compare_with(hub: Callable[..., list[str]]) -> None:
    hub(CONTENT, "0123456789abcdef0123456789abcdef01234567")
    assert fetch(FILE).verified == ""


OFFLINE = """
from cyclevar.core.config.families import PublishedFile
from cyclevar.core.weights.hub import fetch
for name in ("model.pth", "shards/"):
    try:
        fetch(PublishedFile(name, "backbone", (), "someone/models", "MIT"))
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_offline() -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for name, line in zip(("model.pth", "shards/"), lines, strict=True):
        assert line.startswith(f"CheckpointError {name} could not be fetched from someone/models (")
        assert "check the connection and HF_HUB_OFFLINE" in line
