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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(file.parent for file in ROOT.glob("examples/*/pyproject.toml"))

NAMES = ("markov", "scalekv", "search", "tinybackbone", "watermark")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def project(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return found


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what an installer would write of all of them, their code linked."""
    site = tmp_path_factory.mktemp("site")
    for folder in FOLDERS:
        about = project(folder)
        info = site / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
        info.mkdir()
        requires = [f"Requires-Dist: {one}\n" for one in about["dependencies"]]
        header = f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n"
        (info / "METADATA").write_text(header + "".join(requires))
        points = [f"{name} = {module}\n" for name, module in about["entry-points"]["cyclevar"].items()]
        (info / "entry_points.txt").write_text("[cyclevar]\n" + "".join(points))
        for package in (folder / "src").glob("*/__init__.py"):
            (site / package.parent.name).symlink_to(package.parent)
    return site


@pytest.fixture(scope="session")
def run(site: Path) -> Run:
    """Runs python with the packages, or without them, and returns what became of it."""

    def run(*arguments: str, cwd: Path = ROOT, packages: Path | None = site) -> subprocess.CompletedProcess[str]:
        path = [] if packages is None else [str(packages)]
        threads = {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }  # two that wait for each other are slow on a busy machine
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), **threads, "NO_COLOR": "1"}
        environment.pop("CYCLEVAR_PLUGINS", None)
        command: Sequence[str] = [sys.executable, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    return run


def test_there_are_five() -> None:
    assert [folder.name for folder in FOLDERS] == [f"cyclevar-{name}" for name in NAMES]


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_each_is_small(folder: Path) -> None:
    """Less than 250 lines of code; empty ones, comments and docstrings do not count."""
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
    assert 0 < total < 250


@pytest.mark.parametrize("marks", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_their_own_tests_pass(run: Run, marks: str) -> None:
    folders = [str(folder / "tests") for folder in FOLDERS]
    done = run("-m", "pytest", "-q", "-c", "pyproject.toml", "-p", "no:cacheprovider", "-m", marks, *folders)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_of_them_are_listed(run: Run, tmp_path: Path) -> None:
    done = run("-m", "cyclevar.cli.main", "plugins", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    listed: dict[str, Any] = json.loads(done.stdout)
    found = {plugin["name"]: plugin for plugin in listed["plugins"]}
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


def test_their_commands_are_in_the_help(run: Run, tmp_path: Path) -> None:
    done = run("-m", "cyclevar.cli.main", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "scalekv" in done.stdout
    assert "watermark" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_they_keep_the_contract(run: Run, tmp_path: Path, name: str) -> None:
    done = run("-m", "cyclevar.cli.main", "plugin", "check", name, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--count", "1", "--out", "out"],
        ["demo", "--out", "out"],
        ["train", "--steps", "3", "--set", "loop.validate_every=3", "--set", "warmup.steps=1", "--out", "out"],
    ],
    ids=lambda command: command[0],
)
def test_a_run_that_asks_for_none_is_the_same_without_them(
    run: Run, site: Path, tmp_path: Path, command: list[str]
) -> None:
    written = []
    for number, packages in enumerate((site, None)):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = run("-m", "cyclevar.cli.main", *command, cwd=folder, packages=packages)
        assert done.returncode == 0, done.stdout + done.stderr
        files = {
            file.relative_to(folder): file for file in folder.rglob("*") if file.suffix in (".png", ".safetensors")
        }
        assert files
        written.append({name: file.read_bytes() for name, file in files.items()})
    assert written[0] == written[1]


@pytest.mark.slow
def test_an_installer_makes_the_same_of_them(run: Run, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    shutil.copytree(ROOT / "examples", copies, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, *(str(copies / folder.name) for folder in FOLDERS)], check=True)
    done = run("-m", "cyclevar.cli.main", "plugins", "--json", cwd=tmp_path, packages=site)
    found = {plugin["name"]: plugin for plugin in json.loads(done.stdout)["plugins"]}
    for name in NAMES:
        assert str(site) in found[name]["file"]
        assert (site / f"cyclevar_{name}" / "py.typed").is_file()


def test_core_knows_none_of_them() -> None:
    for file in [*ROOT.glob("core/**/*.py"), *ROOT.glob("cli/**/*.py"), *ROOT.glob("plugins/**/*.py")]:
        text = file.read_text()
        assert not [name for name in NAMES if f"cyclevar_{name}" in text], file
