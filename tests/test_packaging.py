"""The repository root is the package: nothing is forgotten in the wheel, and imports go down only."""

from __future__ import annotations

import ast
import fnmatch
import graphlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_PACKED = {"tests", "docs", "examples", "tools"}
LEFTOVERS = (".*", "build", "dist", "runs", "demo", "*.egg-info", "__pycache__")

FLOORS = (
    ("errors",),
    ("allocator", "hub", "memory", "paths", "rows", "schedule", "settings"),
    (
        "attention",
        "attention_report",
        "augment",
        "cache",
        "callbacks",
        "config",
        "hookspecs",
        "interfaces",
        "names",
        "onednn",
        "registry",
        "winograd",
        "xformers_attention",
    ),
    (
        "autoencoder",
        "blocks",
        "checkpoints",
        "class_conditional",
        "discriminators",
        "direct",
        "features",
        "inference",
        "manager",
        "model",
        "models",
        "picture_model",
        "published",
        "pyramid",
        "session",
        "shipped",
        "tiling",
        "translation",
    ),
    ("data", "generation"),
    ("editing", "generated_files", "picture_archives", "picture_files", "ray_adapter", "sharding", "translator"),
    ("bench", "estimate", "evaluation", "report", "training"),
    ("contract", "demo", "doctor", "scaffold"),
    ("pytest_plugin", "reproduce"),
)
"""What stands in ``core``, lowest first. A module imports from its own floor and the ones below, never in a circle."""

PARTS_STAND_ON = 4
"""Plugins and quantizers import from this many floors of ``core``, counted from below."""


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages() -> dict[str, Path]:
    """Import name -> folder of every package in the tree."""
    found = {}
    for init in sorted(ROOT.rglob("__init__.py")):
        folder = init.parent.relative_to(ROOT)
        if not NOT_PACKED.intersection(folder.parts) and not any(
            fnmatch.fnmatch(part, pattern) for part in folder.parts for pattern in LEFTOVERS
        ):
            found[".".join(("cyclevar", *folder.parts))] = init.parent
    return found


def modules() -> dict[str, Path]:
    """Import name -> file of every module in the tree."""
    found = {}
    for package, folder in packages().items():
        for file in sorted(folder.glob("*.py")):
            found[package if file.stem == "__init__" else f"{package}.{file.stem}"] = file
    return found


def imports(file: Path) -> Iterator[str]:
    """The names that a module imports, inside functions too, but not those for type checkers only."""
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: import by the full name, not relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)


def floor(part: str) -> int:
    for number, names in enumerate(FLOORS):
        if part in names:
            return number
    pytest.fail(f"core/{part} stands on no floor: add it to FLOORS in {Path(__file__).name}")


def test_the_package_list_equals_the_tree(settings: dict[str, Any]) -> None:
    assert settings["tool"]["setuptools"]["packages"] == sorted(packages())


def test_every_folder_of_code_is_a_package() -> None:
    folders = {file.parent for top in packages().values() for file in top.rglob("*.py") if top != ROOT}
    assert folders <= set(packages().values())


def test_there_is_no_setup_py() -> None:
    assert not (ROOT / "setup.py").exists(), "it would be packed as cyclevar/setup.py"


def test_the_wheel_holds_every_module_and_data_file(settings: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFTOVERS))
    command = [sys.executable, "-m", "pip", "wheel", copy, "--no-deps", "--no-build-isolation", "-w", tmp_path]
    subprocess.run([*map(str, command), "-q"], check=True)
    [wheel] = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    expected = {f"cyclevar/{file.relative_to(ROOT).as_posix()}" for file in modules().values()}
    for package, patterns in settings["tool"]["setuptools"]["package-data"].items():
        for pattern in patterns:
            found = [file for file in packages()[package].glob(pattern) if file.is_file()]
            expected |= {f"cyclevar/{file.relative_to(ROOT).as_posix()}" for file in found}
    assert "cyclevar/py.typed" in packed
    assert packed == expected

    [licence] = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("licenses/LICENSE")]
    assert licence


def test_no_data_file_is_forgotten(settings: dict[str, Any]) -> None:
    declared = {
        file
        for package, patterns in settings["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for file in packages()[package].glob(pattern)
    }
    for package, folder in packages().items():
        if package != "cyclevar":
            inside = {file for file in folder.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
            assert inside <= declared, f"name them under tool.setuptools.package-data: {sorted(inside - declared)}"


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, cyclevar; cyclevar.__version__; dir(cyclevar); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_every_public_name_can_be_imported() -> None:
    import cyclevar

    for name in cyclevar.__all__:
        assert getattr(cyclevar, name)
    assert set(cyclevar.__all__) <= set(dir(cyclevar))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cyclevar.nothing


def test_nothing_is_imported_by_its_folder_name() -> None:
    tops = {folder.name for folder in ROOT.iterdir() if folder.is_dir()}
    for file in [*modules().values(), *ROOT.glob("tests/**/*.py"), *ROOT.glob("tools/**/*.py")]:
        wrong = [name for name in imports(file) if name.split(".")[0] in tops]
        assert not wrong, f"{file} imports {wrong}: write cyclevar.{wrong[0]}, or every class exists twice"


def test_core_imports_no_part_and_no_command() -> None:
    for module, file in modules().items():
        if module.startswith("cyclevar.core"):
            wrong = [name for name in imports(file) if name.startswith(("cyclevar.plugins", "cyclevar.quantizers"))]
            wrong += [name for name in imports(file) if name.startswith("cyclevar.cli")]
            assert not wrong, f"{module} imports {wrong}: core reaches parts through the registry"


def test_imports_inside_core_go_down() -> None:
    graph: dict[str, set[str]] = {}
    for module, file in modules().items():
        if not module.startswith("cyclevar.core."):
            continue
        part = module.split(".")[2]
        for name in imports(file):
            if name.startswith("cyclevar.core."):
                lower = name.split(".")[2]
                assert floor(lower) <= floor(part), f"{module} imports {name}, which stands above it"
                if lower != part:
                    graph.setdefault(part, set()).add(lower)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError for a circle


def test_parts_stand_on_the_lower_floors() -> None:
    for module, file in modules().items():
        if not module.startswith(("cyclevar.plugins.", "cyclevar.quantizers.")):
            continue
        family = ".".join(module.split(".")[:3])
        for name in imports(file):
            if name.startswith("cyclevar.core."):
                assert floor(name.split(".")[2]) < PARTS_STAND_ON, f"{module} imports {name}, which stands above it"
            if name.startswith("cyclevar.cli"):
                pytest.fail(f"{module} imports {name}: what both need belongs into core")
            if name.startswith("cyclevar.plugins."):
                assert name.startswith(family), f"{module} imports {name}: what two plugins share belongs into core"
