"""What is asked of a plugin before it is published: that it fits, loads, is light, and keeps the contract."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from xml.etree import ElementTree

from cyclevar.core.contract.selection import contract_files
from cyclevar.core.errors import ConfigError, CyclevarError, PluginError, nearest
from cyclevar.core.extension.hookspecs import PROJECT
from cyclevar.core.extension.manager import Plugin, get_manager, required_versions
from cyclevar.core.scaffold.write import supported_range

LIMIT = 0.05
"""Seconds that importing and registering may take: every command waits for it."""

MEASURE = """
import json, sys, time
from importlib.metadata import EntryPoint
from cyclevar.core.extension.manager import Manager
begun = time.perf_counter()
Manager([EntryPoint(*sys.argv[1:])])
print(json.dumps([time.perf_counter() - begun, "torch" in sys.modules]))
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it is (``passed`` is None where it could not be told), and what to do."""

    check: str
    passed: bool | None
    found: str
    to_do: str = ""


def check_plugin(package: str, commands: Collection[str] = ()) -> list[Finding]:
    """Look at the plugins of a distribution, named by it, by one of them or by its folder.

    ``commands``: names that the command line has already.

    Raises:
        ConfigError: nothing of that name is installed.
        PluginError: pytest, which runs the contract, is not installed.
    """
    if importlib.util.find_spec("pytest") is None:
        raise PluginError("pytest is not installed", hint=f"pip install '{PROJECT}[contract]'")
    return [finding for point in find_plugins(package) for finding in _findings(point, commands)]


def find_plugins(package: str) -> list[EntryPoint]:
    """The entry points that a distribution's name, a plugin's name or a folder stand for. Raises `ConfigError`."""
    points = [point for point in importlib.metadata.entry_points(group=PROJECT) if point.dist is not None]
    folder = Path(package)
    is_folder = folder.is_dir()
    name = _normal(_distribution_of(folder) if is_folder else package)
    found = [point for point in points if point.dist is not None and _normal(point.dist.name) == name]
    found = found or [point for point in points if point.name == package and not is_folder]
    if not found:
        if is_folder:
            hint = f"pip install -e {package}; its pyproject.toml names the plugin under project.entry-points.{PROJECT}"
        else:
            known = {name for point in points for name in (point.name, point.dist.name if point.dist else "")}
            hint = nearest(package, known) or f"pip install {package}, or give its folder"
        raise ConfigError(f"no installed distribution {name!r} has a plugin for {PROJECT}", hint=hint)
    return found


def _distribution_of(folder: Path) -> str:
    file = folder / "pyproject.toml"
    try:
        return str(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["name"])
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(
            f"{file} does not say what the distribution is called ({type(error).__name__}: {error})",
            expected="a folder with a pyproject.toml that has project.name",
        ) from None


def _normal(name: str) -> str:
    """The normal form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _findings(point: EntryPoint, commands: Collection[str]) -> Iterator[Finding]:
    assert point.dist is not None
    manager, title = get_manager(), f"{point.name} ({point.dist.name} {point.dist.version})"
    loaded = [one for one in manager.plugins if (one.name, one.distribution) == (point.name, point.dist.name)]
    yield _range(point)
    if not loaded:
        left_out = [one for one in (*manager.failures, *manager.disabled) if one.name == point.name]
        yield from (Finding("loads", False, f"{title}: {one.reason}", one.way_out) for one in left_out)
        return
    [plugin] = loaded
    parts = ", ".join(f"{entry.kind} {entry.name}" for entry in plugin.registered) or "no part"
    yield Finding("loads", True, f"{title}: {', '.join(plugin.hooks) or 'no hook'}; {parts}")
    yield from _import(point)
    if "cyclevar_commands" in plugin.hooks:
        yield _commands(plugin, commands)
    if plugin.registered:
        yield from _contract(plugin)


def _range(point: EntryPoint) -> Finding:
    """Whether the distribution says which versions of cyclevar it works with, and this is one of them."""
    assert point.dist is not None
    own = importlib.metadata.version(PROJECT)
    wanted = f'add "{PROJECT}{supported_range(own)}" to project.dependencies in its pyproject.toml'
    try:
        declared = required_versions(point.dist)
    except CyclevarError as error:
        return Finding("versions", False, error.problem, wanted)
    if point.dist.name == PROJECT:
        return Finding("versions", True, "a part of cyclevar")
    if not declared:
        return Finding("versions", False, f"it does not say which versions of {PROJECT} it works with", wanted)

    from packaging.specifiers import SpecifierSet

    fits = SpecifierSet(declared).contains(own, prereleases=True)
    return Finding("versions", fits, f"it needs {PROJECT} {declared}, and this is {own}", "" if fits else wanted)


def _import(point: EntryPoint) -> Iterator[Finding]:
    """What loading it costs, the fastest of three processes, and whether torch comes along."""
    command = [sys.executable, "-c", MEASURE, point.name, point.value, point.group]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)]
    measured = [json.loads(run.splitlines()[-1]) for run in runs]
    seconds, with_torch = min(time for time, _ in measured), any(torch for _, torch in measured)
    yield Finding(
        "no torch",
        not with_torch,
        "registering imports torch" if with_torch else "registering imports no torch",
        'name factories and settings as "package.module:attribute", and import torch in those modules' * with_torch,
    )
    slow = seconds > LIMIT
    yield Finding(
        "import time",
        not slow,
        f"{1000 * seconds:.0f} ms, at most {1000 * LIMIT:.0f}",
        "`python -X importtime -c 'import ...'` shows what takes long" if slow else "",
    )


def _commands(plugin: Plugin, taken: Collection[str]) -> Finding:
    """Whether its commands have names of their own."""
    import typer
    import typer.main

    app = typer.Typer()
    try:
        get_manager().call(plugin, "cyclevar_commands", app=app)
    except CyclevarError as error:
        return Finding("commands", False, error.problem, error.hint)
    names = list(typer.main.get_group(app).commands)
    clashing = [name for name in names if name in taken]
    if clashing:
        return Finding("commands", False, f"cyclevar has {', '.join(clashing)} already", "rename them")
    return Finding("commands", True, ", ".join(names))


def _contract(plugin: Plugin) -> Iterator[Finding]:
    """The contract's tests on the plugin's parts, a finding for each of their files."""
    with tempfile.TemporaryDirectory() as folder:
        report, empty = Path(folder) / "report.xml", Path(folder) / "pytest.ini"
        empty.write_text("[pytest]\n")
        command = [sys.executable, "-m", "pytest", *map(str, contract_files(plugin.name)), "-c", str(empty)]
        command += [f"--cyclevar-contract={plugin.name}", f"--junit-xml={report}", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=_environment())
        cases = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
        if not cases:
            tail = " ".join((done.stdout + done.stderr).split())[-300:]
            yield Finding(
                "contract", False, f"pytest ended with code {done.returncode}: {tail}", "repair what it names"
            )
            return
    for file in dict.fromkeys(str(case.get("classname")) for case in cases):
        own = [case for case in cases if case.get("classname") == file]
        yield _judged(plugin, file.rpartition(".test_")[2], own)


def _environment() -> dict[str, str]:
    """Ours, without what would change which tests pytest runs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def _judged(plugin: Plugin, file: str, cases: list[ElementTree.Element]) -> Finding:
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    passed = len(cases) - len(failed) - len(skipped)
    if failed:
        first = failed[0]
        reason = next(iter(first), first).get("message", "")
        found = f"{len(failed)} of {len(cases)} failed, first {first.get('name')}: {' '.join(reason.split())[:200]}"
        bare = str(first.get("name")).partition("[")[0]
        return Finding(f"contract: {file}", False, found, f"see `pytest --cyclevar-contract={plugin.name} -k {bare}`")
    why = {" ".join(str(case.find("skipped").get("message")).split())[:200] for case in skipped}  # type: ignore[union-attr]
    found = f"{passed} passed" + (f", {len(skipped)} skipped ({'; '.join(sorted(why))})" if skipped else "")
    return Finding(f"contract: {file}", True if passed else None, found)
