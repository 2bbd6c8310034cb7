"""A new plugin works at once, whatever its kind and name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.extension.registry import KINDS as REGISTRY_KINDS
from cyclevar.core.scaffold.write import COMMON, KINDS, LONGEST, checked_name, new_plugin, supported_range

ROOT = Path(__file__).resolve().parents[3]

LONG = "abcdefgh-jklmnop-rst"


def test_what_is_written(tmp_path: Path) -> None:
    folder = new_plugin("Soft_Edges", "loss", tmp_path)
    assert folder == tmp_path / "cyclevar-soft-edges"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        ".github/workflows/test.yml",
        ".gitignore",
        "README.md",
        "pyproject.toml",
        "src/cyclevar_soft_edges/__init__.py",
        "src/cyclevar_soft_edges/config.py",
        "src/cyclevar_soft_edges/loss.py",
        "src/cyclevar_soft_edges/plugin.py",
        "src/cyclevar_soft_edges/py.typed",
        "tests/test_loss.py",
    }
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "cyclevar-soft-edges"
    assert project["entry-points"]["cyclevar"] == {"soft_edges": "cyclevar_soft_edges.plugin"}
    assert project["dependencies"] == ["cyclevar>=0.1,<0.2"]
    assert set(KINDS) <= set(REGISTRY_KINDS)
    assert len(COMMON) == 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["x", LONG])
def test_it_is_in_order(tmp_path: Path, kind: str, name: str) -> None:
    assert len(LONG) == LONGEST
    folder = new_plugin(name, kind, tmp_path)
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "."], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
    text = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert "{{" not in text
    assert "{%" not in text


@pytest.mark.parametrize(
    ("given", "name"), [("a", "a"), ("cyclevar-my-loss", "my-loss"), ("My__Loss.2", "my-loss-2"), (LONG, LONG)]
)
def test_names_in_their_normal_form(given: str, name: str) -> None:
    assert checked_name(given) == name


@pytest.mark.parametrize(
    "name", ["", "2d", "-a", "a-", "a b", "größe", "class", "../a", "a/b", f"{LONG}x", "cyclevar-", "a;b"]
)
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a plugin; expected up to 20 letters"):
        new_plugin(name, "loss", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "kind", "owner"),
    [
        ("patchgan", "discriminator", r"a discriminator of plugin patchgan \(cyclevar "),
        ("lpips-vgg", "loss", r"a loss of plugin losses \(cyclevar "),
        ("clip", "loss", "a plugin of cyclevar"),
    ],
)
def test_names_that_are_taken(tmp_path: Path, name: str, kind: str, owner: str) -> None:
    with pytest.raises(ConfigError, match=f"the name '{name}' is taken by {owner}"):
        new_plugin(name, kind, tmp_path)


def test_an_importable_package_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cyclevar_mine.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="an importable package, cyclevar_mine"):
        new_plugin("mine", "loss", tmp_path)


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cyclevar-mine").mkdir()
    with pytest.raises(ConfigError, match=r"cyclevar-mine exists already.*--out"):
        new_plugin("mine", "loss", tmp_path)
    assert not list((tmp_path / "cyclevar-mine").iterdir())


def test_an_unknown_kind_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'callback'"):
        new_plugin("mine", "calback", tmp_path)


@pytest.mark.parametrize(
    ("version", "range"),
    [("0.1.0", ">=0.1,<0.2"), ("0.12.3", ">=0.12,<0.13"), ("1.0.0", ">=1.0,<2"), ("3.4", ">=3.4,<4")],
)
def test_the_range_that_is_declared(version: str, range: str) -> None:
    assert supported_range(version) == range


def test_of_every_kind_one_passes_its_tests_and_the_contract(
    tmp_path: Path, install_packages: Callable[..., dict[str, str]]
) -> None:
    """But the contract of a backbone, which takes longer, stands in the test below."""
    folders = [new_plugin(f"new-{kind}"[:LONGEST], kind, tmp_path) for kind in KINDS]
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--cyclevar-contract"]
    command += ["-k", "not new_backbone"]
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", "--import-mode=importlib", *(str(folder / "tests") for folder in folders)],
        cwd=tmp_path,
        env=install_packages(*folders),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "failed" not in done.stdout


def installed(site: Path, *folders: Path) -> dict[str, str]:
    """The environment in which packages are installed, by pip."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, *map(str, folders)], check=True)
    return {**os.environ, "PYTHONPATH": str(site)}


def run(folder: Path, environment: Mapping[str, str], *module: str) -> None:
    done = subprocess.run([sys.executable, "-m", *module], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_installed_for_real_they_are_typed_and_checked(tmp_path: Path) -> None:
    folders = [new_plugin(f"new-{kind}"[:LONGEST], kind, tmp_path) for kind in KINDS]
    environment = installed(tmp_path / "site", *folders)
    linked = tmp_path / "typing"
    linked.mkdir()
    (linked / "cyclevar").symlink_to(ROOT)
    environment["MYPYPATH"] = os.pathsep.join((str(linked), str(tmp_path / "site")))
    packages = [option for folder in folders for option in ("-p", folder.name.replace("-", "_"))]
    run(folders[0], environment, "mypy", "--strict", "--follow-imports=silent", *packages)
    for folder in folders:
        run(folder, environment, "cyclevar.cli.main", "plugin", "check", str(folder))


@pytest.mark.slow
def test_from_new_to_a_training_in_under_five_minutes(tmp_path: Path) -> None:
    begun = time.perf_counter()
    folder = new_plugin("new", "loss", tmp_path)
    environment = installed(tmp_path / "site", folder)
    run(folder, environment, "pytest", "-q")
    run(folder, environment, "cyclevar.cli.main", "plugin", "check", str(folder))
    settings = ["loss.cycle_terms={l1: 1, new: 1}", "warmup.steps=2", "discriminator.pretrain_steps=4"]
    options = [part for setting in settings for part in ("--set", setting)]
    run(tmp_path, environment, "cyclevar.cli.main", "train", "--steps", "10", *options, "--out", "run")
    assert (tmp_path / "run" / "translator.json").is_file()
    assert time.perf_counter() - begun < 300
