"""What cyclevar adds to pytest: ``--cyclevar-contract[=PLUGIN]``.

It is loaded in every pytest run, so it imports next to nothing. The tests in ``core/contract`` are collected under
their own import names, wherever the package lies.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

CONTRACT = "cyclevar.core.contract"
FOLDER = Path(__file__).resolve().parent

pytest.register_assert_rewrite(
    f"{CONTRACT}.fixtures", *(f"{CONTRACT}.{file.stem}" for file in FOLDER.glob("test_*.py"))
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--cyclevar-contract`` alone stands for all plugins that are not cyclevar's own."""
    parser.getgroup("cyclevar").addoption(
        "--cyclevar-contract",
        nargs="?",
        const="",
        metavar="PLUGIN",
        help="Run cyclevar's contract tests on the parts of a plugin too (of all installed ones but cyclevar's own).",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add the test files of the kinds that are asked for."""
    plugin = config.getoption("--cyclevar-contract", None)
    if plugin is None:
        return

    from cyclevar.core.contract.selection import contract_files
    from cyclevar.core.errors import CyclevarError

    try:
        files = contract_files(plugin)
    except CyclevarError as error:
        raise pytest.UsageError(f"--cyclevar-contract: {error}") from None
    config.args += [str(file) for file in files if str(file) not in config.args]


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Dir | None:
    """Our folders are no packages to pytest, which would import them under the names of the folders above."""
    ours = path == FOLDER or (path in FOLDER.parents and (path / "__init__.py").is_file())
    return pytest.Dir.from_parent(parent, path=path) if ours else None


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """The contract's modules under their own import names."""
    if module_path.parent != FOLDER:
        return None
    name = f"{CONTRACT}.{module_path.stem}"
    module: pytest.Module = pytest.Module.from_parent(parent, path=module_path, nodeid=f"{name.replace('.', '/')}.py")
    module.obj = importlib.import_module(name)
    return module


@pytest.fixture(scope="session")
def cyclevar_contract_settings() -> Callable[[str, str], Mapping[str, Any]]:
    """Kind and name of a part to the settings that its contract is tested with.

    Here none, which are its defaults: in a ``conftest.py`` it may be given smaller ones, or a file that it needs.
    """
    return lambda kind, name: {}
