"""The example packages: each passes its own tests, all fit together, and none acts unless it is asked for by name."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(file.parent for file in ROOT.glob("examples/*/pyproject.toml"))

NAMES = ("markov", "scalekv", "search", "tinybackbone", "watermark")

Install = Callable[..., dict[str, str]]


def project(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return found


def run(environment: dict[str, str], *arguments: str, cwd: Path) -> str:
    """What python prints; two threads that wait for each other are slow on a busy machine, so it has one."""
    environment = {**environment, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NO_COLOR": "1"}
    environment.pop("CYCLEVAR_PLUGINS", None)
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "was left out" not in done.stderr
    return done.stdout


def cyclevar(environment: dict[str, str], *arguments: str, cwd: Path) -> str:
    return run(environment, "-m", "cyclevar.cli.main", *arguments, cwd=cwd)


def listed(environment: dict[str, str], cwd: Path) -> dict[str, dict[str, Any]]:
    """The plugins by name."""
    plugins = json.loads(cyclevar(environment, "plugins", "--json", cwd=cwd))["plugins"]
    return {plugin["name"]: plugin for plugin in plugins}


def test_there_are_five() -> None:
    assert [folder.name for folder in FOLDERS] == [f"cyclevar-{name}" for name in NAMES]


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_each_is_small(folder: Path) -> None:
    """At most 250 lines of code; empty ones, comments and docstrings do not count."""
    total = 0
    for file in folder.glob("src/**/*.py"):
        text = file.read_text()
        words = {
            node.lineno + line
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            for line in range((node.end_lineno or node.lineno) - node.lineno + 1)
        }
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
        lines = {line for one in tokens if one.type not in blank for line in range(one.start[0], one.end[0] + 1)}
        total += len(lines - words)
    assert 0 < total <= 250


@pytest.mark.parametrize("marks", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_their_own_tests_pass(install_packages: Install, marks: str) -> None:
    folders = [str(folder / "tests") for folder in FOLDERS]
    options = ["-q", "-c", "pyproject.toml", "-p", "no:cacheprovider", "-m", marks]
    run(install_packages(*FOLDERS), "-m", "pytest", *options, *folders, cwd=ROOT)


def test_all_of_them_are_listed(install_packages: Install, tmp_path: Path) -> None:
    found = listed(install_packages(*FOLDERS), tmp_path)
    for folder, name in zip(FOLDERS, NAMES, strict=True):
        assert found[name]["distribution"] == project(folder)["name"]
    parts = {(part["kind"], part["name"]) for name in NAMES for part in found[name]["registers"]}
    assert parts == {
        ("visibility", "markov"),
        ("cache_policy", "scalekv"),
        ("callback", "search"),
        ("quantizer", "grid"),
        ("backbone", "tinybackbone"),
        ("callback", "watermark"),
    }


def test_their_commands_are_in_the_help(install_packages: Install, tmp_path: Path) -> None:
    shown = cyclevar(install_packages(*FOLDERS), "--help", cwd=tmp_path)
    assert "scalekv" in shown
    assert "watermark" in shown


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_they_keep_the_contract(install_packages: Install, tmp_path: Path, name: str) -> None:
    cyclevar(install_packages(*FOLDERS), "plugin", "check", name, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--count", "1", "--out", "out"],
        ["translate", "picture.png", "out.png"],
        ["train", "--steps", "3", "--set", "loop.validate_every=3", "--set", "warmup.steps=1", "--out", "out"],
    ],
    ids=lambda command: command[0],
)
def test_a_run_that_asks_for_none_is_the_same_without_them(
    install_packages: Install, tmp_path: Path, command: list[str]
) -> None:
    written = []
    for name, environment in (("with", install_packages(*FOLDERS)), ("without", {**os.environ})):
        folder = tmp_path / name
        folder.mkdir()
        Image.radial_gradient("L").convert("RGB").save(folder / "picture.png")
        cyclevar(environment, *command, cwd=folder)
        files = [file for file in folder.rglob("*") if file.suffix in (".png", ".safetensors")]
        assert len(files) > 1
        written.append({file.relative_to(folder): file.read_bytes() for file in files})
    assert written[0] == written[1]


@pytest.mark.slow
def test_an_installer_makes_the_same_of_them(tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    shutil.copytree(ROOT / "examples", copies, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, *(str(copies / folder.name) for folder in FOLDERS)], check=True)
    found = listed({**os.environ, "PYTHONPATH": str(site)}, tmp_path)
    for name in NAMES:
        assert str(site) in found[name]["file"]
        assert (site / f"cyclevar_{name}" / "py.typed").is_file()


def test_core_knows_none_of_them() -> None:
    for file in [*ROOT.glob("core/**/*.py"), *ROOT.glob("cli/**/*.py"), *ROOT.glob("plugins/**/*.py")]:
        text = file.read_text()
        assert not [name for name in NAMES if f"cyclevar_{name}" in text], file
