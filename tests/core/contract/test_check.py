"""A plugin's faults are found, each with what to do."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer

from cyclevar.core.contract import check as check_module
from cyclevar.core.contract.check import check_plugin, find_plugins
from cyclevar.core.contract.selection import FILES, FOLDER, chosen_entries, contract_files
from cyclevar.core.errors import ConfigError, PluginError, UnknownNameError
from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.manager import Manager, get_manager
from cyclevar.core.extension.registry import KINDS
from cyclevar.core.scaffold.write import new_plugin

Install = Callable[..., dict[str, str]]


def test_every_file_of_the_contract_is_for_a_kind() -> None:
    files = {path.stem.removeprefix("test_") for path in FOLDER.glob("test_*.py")}
    assert files == {"parts", *(name for names in FILES.values() for name in names)}
    assert set(FILES) <= set(KINDS)


def test_which_parts_are_chosen() -> None:
    everything = chosen_entries(None)
    assert everything == [entry for plugin in get_manager().plugins for entry in plugin.registered]
    assert [entry.name for entry in chosen_entries("patchgan")] == ["patchgan"]
    assert all("(cyclevar " not in entry.owner for entry in chosen_entries(""))
    assert [file.name for file in contract_files("patchgan")] == ["test_parts.py", "test_discriminator.py"]
    with pytest.raises(UnknownNameError, match="did you mean 'patchgan'"):
        chosen_entries("patchgun")


def test_a_plugin_that_was_left_out_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Manager([EntryPoint("broken", "no_such_module", "cyclevar")])
    monkeypatch.setattr("cyclevar.core.contract.selection.get_manager", lambda: manager)
    with pytest.raises(PluginError, match="No module named 'no_such_module'"):
        chosen_entries("broken")
    with pytest.raises(PluginError, match="no plugin but cyclevar's own is installed"):
        contract_files("")


def test_what_is_meant_by_a_name(tmp_path: Path) -> None:
    assert [point.name for point in find_plugins("patchgan")] == ["patchgan"]
    assert {"var", "losses"} <= {point.name for point in find_plugins("CycleVAR")}
    with pytest.raises(ConfigError, match=r"'patchgn' has a plugin for cyclevar; did you mean 'patchgan'\?"):
        find_plugins("patchgn")
    with pytest.raises(ConfigError, match=r"does not say what the distribution is called \(FileNotFoundError"):
        find_plugins(str(tmp_path))
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'not_there'\n")
    with pytest.raises(ConfigError, match=r"'not-there' has a plugin for cyclevar; pip install -e .*entry-points"):
        find_plugins(str(tmp_path))


def test_without_pytest_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match=r"pytest is not installed; pip install 'cyclevar\[contract\]'"):
        check_plugin("patchgan")


def test_what_loading_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").touch()
    (tmp_path / "heavy.py").write_text("import time, torch\ntime.sleep(0.06)\n")
    (tmp_path / "light.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    torch, seconds = check_module._import(EntryPoint("heavy", "heavy", "cyclevar"))
    assert (torch.passed, seconds.passed) == (False, False)
    assert "package.module:attribute" in torch.to_do
    assert "-X importtime" in seconds.to_do
    assert all(
        finding.passed and not finding.to_do for finding in check_module._import(EntryPoint("light", "light", ""))
    )


def test_commands_need_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = typer  # any module will do as a namespace

    class Commands:
        @staticmethod
        @hookimpl
        def cyclevar_commands(app: typer.Typer) -> None:
            app.command("calibrate")(lambda: None)

    monkeypatch.setattr(module, "commands_of_a_plugin", Commands, raising=False)
    manager = Manager([EntryPoint("mine", "typer:commands_of_a_plugin", "cyclevar")])
    assert manager.failures == []
    monkeypatch.setattr(check_module, "get_manager", lambda: manager)
    [plugin] = manager.plugins
    assert check_module._commands(plugin, ["train"]).passed
    clash = check_module._commands(plugin, ["calibrate"])
    assert (clash.passed, clash.to_do) == (False, "rename them")


def check(environment: dict[str, str], package: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = subprocess.run(
        [sys.executable, "-m", "cyclevar.cli.main", "plugin", "check", package, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, {finding["check"]: finding for finding in json.loads(done.stdout)}


def test_a_part_that_breaks_its_contract(tmp_path: Path, install_packages: Install) -> None:
    folder = new_plugin("wrong", "loss", tmp_path)
    code = folder / "src" / "cyclevar_wrong" / "loss.py"
    code.write_text(code.read_text().replace("pairs]).mean()", "pairs]).mean() + 1"))
    project = folder / "pyproject.toml"
    project.write_text(project.read_text().replace('"cyclevar>=0.1,<0.2"', '"cyclevar"'))
    status, found = check(install_packages(folder), str(folder))
    assert status == 1
    assert {name: finding["passed"] for name, finding in found.items()} == {
        "versions": False,
        "loads": True,
        "no torch": True,
        "import time": True,
        "contract: parts": True,
        "contract: loss": False,
    }
    assert found["versions"]["to_do"].startswith('add "cyclevar>=0.1,<0.2" to project.dependencies')
    assert "1 of 3 failed, first test_equal_pictures_cost_nothing" in found["contract: loss"]["found"]
    assert found["contract: loss"]["to_do"].startswith("see `pytest --cyclevar-contract=wrong -k test_equal_pictures")


def test_a_plugin_that_does_not_load(tmp_path: Path, install_packages: Install) -> None:
    folder = new_plugin("late", "loss", tmp_path)
    project = folder / "pyproject.toml"
    project.write_text(project.read_text().replace("cyclevar>=0.1,<0.2", "cyclevar>=99"))
    status, found = check(install_packages(folder), "late")
    own = importlib.metadata.version("cyclevar")
    assert status == 1
    assert list(found) == ["versions", "loads"]
    assert found["versions"]["found"] == f"it needs cyclevar >=99, and this is {own}"
    assert found["loads"]["found"].startswith("late (cyclevar-late 0.1.0): it needs cyclevar >=99")
    assert "a release of cyclevar-late that fits" in found["loads"]["to_do"]


def test_the_option_of_pytest_names_what_it_does_not_know(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--cyclevar-contract=nothing", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "--cyclevar-contract: there is no plugin named 'nothing'" in done.stderr


def test_the_option_costs_nothing_where_it_is_not_asked_for() -> None:
    plugin = "cyclevar.core.contract.pytest_plugin"
    code = f"import sys, pytest; old = set(sys.modules); import {plugin}; print(*set(sys.modules) - old)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"cyclevar", "cyclevar.core", "cyclevar.core.contract", plugin}
