"""The repository root is the package: nothing is forgotten in the wheel, and imports go down only."""

from __future__ import annotations

import ast
import fnmatch
import graphlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_PACKED = {"tests", "docs", "examples", "tools"}
LEFTOVERS = (".*", "build", "dist", "runs", "demo", "*.egg-info", "__pycache__")

LAYERS = (
    *("errors", "schedule", "config", "runtime", "attention", "interfaces", "extension", "weights", "networks"),
    *("next_scale", "models", "inference", "data", "pipelines", "evaluation", "report", "training", "bench"),
    *("diagnostics", "demo", "scaffold", "contract", "reproduce"),
)
"""The packages and modules of ``core``, lowest first: each imports from itself and those before it."""

PARTS_REACH = "models"
"""The highest package of ``core`` that plugins and quantizers import."""

ASK_THE_MANAGER = (
    *("extension", "weights", "models", "data.datasets", "next_scale.session", "training.tasks"),
    *("contract", "scaffold", "diagnostics.doctor"),  # their subject is the plugins
)
ASK_THE_MANAGER_YET = (
    *("evaluation.evaluate", "evaluation.feature_extraction", "training.losses.reconstruction"),  # metrics, losses
    *("training.resolve", "training.launch", "reproduce.run"),  # settings, families
)
"""Modules that should be given what they ask for; none may be added."""

NAME_TYPER = {"cyclevar.core.contract.check", "cyclevar.core.extension.hookspecs"}
"""Modules outside ``cli`` that name the type of a command line, since plugins add commands to it."""


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
    """Yield the names that a module imports, also inside functions and for type checkers."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: import by the full name, not relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(known: Collection[str], file: Path) -> set[str]:
    """Return the modules of cyclevar that a module imports."""
    found = set()
    for name in imports(file):
        while name.startswith("cyclevar") and name not in known:
            name = name.rpartition(".")[0]
        found.add(name)
    return found.intersection(known)


def layer(module: str) -> int:
    """Return the place in `LAYERS` of a module of ``core``."""
    top = module.split(".")[2]
    assert top in LAYERS, f"add core/{top} to LAYERS in {Path(__file__).name}"
    return LAYERS.index(top)


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
    tree = modules()
    for module, file in tree.items():
        if module.startswith("cyclevar.core."):
            upward = [name for name in imported(tree, file) if name.count(".") > 1 and layer(name) > layer(module)]
            assert not upward, f"{module} imports {upward}, which LAYERS places above it"


def test_no_modules_import_each_other_in_a_circle() -> None:
    tree = modules()
    graph = {module: imported(tree, file) - {module} for module, file in tree.items() if "__init__" not in file.name}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_parts_stand_on_core_and_not_on_each_other() -> None:
    tree = modules()
    for module, file in tree.items():
        if not module.startswith(("cyclevar.plugins.", "cyclevar.quantizers.")):
            continue
        family = ".".join(module.split(".")[:3])
        for name in imported(tree, file):
            assert not name.startswith("cyclevar.cli"), f"{module} imports {name}: what both need belongs into core"
            if name.startswith("cyclevar.core."):
                assert layer(name) <= LAYERS.index(PARTS_REACH), f"{module} imports {name}, above {PARTS_REACH}"
            if name.startswith("cyclevar.plugins."):
                assert name.startswith(family), f"{module} imports {name}: what two plugins share belongs into core"


def test_only_the_command_line_imports_rich_and_typer() -> None:
    for module, file in modules().items():
        if not module.startswith("cyclevar.cli"):
            wrong = {name.split(".")[0] for name in imports(file)} & {"rich", "typer"}
            assert not wrong - ({"typer"} if module in NAME_TYPER else set()), f"{module} imports {wrong}"


def test_few_modules_ask_the_plugin_manager() -> None:
    asking = {
        module.removeprefix("cyclevar.core.")
        for module, file in modules().items()
        if module.startswith("cyclevar.core.") and "cyclevar.core.extension.manager.get_manager" in imports(file)
    }
    may = {name for name in asking if any(name == one or name.startswith(f"{one}.") for one in ASK_THE_MANAGER)}
    assert asking - may == set(ASK_THE_MANAGER_YET), "hand over what the module asks for, or shorten the list"


def test_the_architecture_page_shows_the_tree() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    shown, folders = [], list[str]()
    for indent, name in re.findall(r"^ {4}((?:  )*)(core/|[a-z_0-9]+/|[a-z_0-9]+\.py)(?: +\S.*)?$", page, re.MULTILINE):
        depth = len(indent) // 2
        folders = [*folders[:depth], name]
        if name.endswith(".py") and folders[0] == "core/":
            shown.append("".join(folders))
    real = {
        file.relative_to(ROOT).as_posix()
        for module, file in modules().items()
        if module.startswith("cyclevar.core.") and file.name != "__init__.py" and not file.name.startswith("test_")
    }
    assert sorted(shown) == sorted(real)
    order = list(dict.fromkeys(file.split("/")[1].removesuffix(".py") for file in shown))
    assert order == list(LAYERS)
