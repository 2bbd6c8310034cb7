"""The command line as a user meets it: help, lazy commands, plugins' commands, one line for every error."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import logging
import os
import re
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import typer

from cyclevar.cli import main as cli
from cyclevar.core.errors import ConfigError
from cyclevar.core.extension import manager as manager_module
from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.manager import Manager
from cyclevar.core.scaffold.write import new_plugin

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process; gives exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(arguments)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, object], None]:
    """Adds a command of our own for one test."""

    def add(name: str, target: object) -> None:
        module = types.ModuleType(f"commands_{name}")
        module.command = target  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, name, f"{module.__name__}:command")

    return add


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Replaces the plugins' commands by those that the given functions add, a plugin each."""

    def plug(**commands: Callable[[typer.Typer], None]) -> None:
        points = []
        for name, function in commands.items():
            module = types.ModuleType(f"plugin_{name}")
            module.cyclevar_commands = hookimpl(function, specname="cyclevar_commands")  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module.__name__, module)
            points.append(importlib.metadata.EntryPoint(name, module.__name__, "cyclevar"))
        manager = Manager(points)
        assert manager.failures == []
        monkeypatch.setattr(cli, "get_manager", lambda: manager)
        cli._plugin_commands.cache_clear()

    yield plug
    cli._plugin_commands.cache_clear()


def test_help_lists_the_commands_with_a_line_each(run: Run) -> None:
    for arguments in ([], ["--help"]):
        code, out, _ = run(*arguments)
        assert code == 0
        for name in cli.COMMANDS:
            assert f"\n  {name} " in out


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_explains_itself(run: Run, name: str) -> None:
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: cyclevar {name}")
    assert len(out.splitlines()[2].strip()) > 10


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"cyclevar {importlib.metadata.version('cyclevar')}\n", "")


IMPORTS = """
import sys
from cyclevar.cli.main import main
code = main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["plugins"], *([name, "--help"] for name in cli.COMMANDS)]
)
def test_help_imports_no_torch(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "False")


@pytest.mark.slow
def test_help_takes_under_700_milliseconds() -> None:
    def once() -> float:
        begin = time.perf_counter()
        subprocess.run([Path(sys.executable).with_name("cyclevar"), "--help"], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begin

    assert min(once() for _ in range(5)) < 0.7


@pytest.mark.slow
def test_five_plugins_add_under_50_milliseconds(
    tmp_path: Path, install_packages: Callable[..., dict[str, str]]
) -> None:
    kinds = ("backbone", "quantizer", "discriminator", "loss", "callback")
    environment = install_packages(*(new_plugin(f"start-{kind}"[:20], kind, tmp_path) for kind in kinds))
    command = [Path(sys.executable).with_name("cyclevar"), "--help"]

    def once(environment: Mapping[str, str]) -> float:
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        return time.perf_counter() - begin

    pairs = [(once(environment), once(os.environ)) for _ in range(20)]
    with_five, without = (min(times) for times in zip(*pairs, strict=True))
    print(f"{1000 * with_five:.0f} ms with five plugins, {1000 * without:.0f} without")
    assert with_five - without < 0.05


def test_a_command_is_imported_only_when_it_is_needed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "absent", "no_such_module:command")
    assert run("plugins")[0] == 0
    with pytest.raises(ModuleNotFoundError):
        run("absent")


def test_an_unknown_command_offers_the_nearest(run: Run) -> None:
    code, out, err = run("plugns")
    assert (code, out) == (2, "")
    assert err.startswith("cyclevar: error: there is no command named 'plugns'; expected one of ")
    assert "did you mean 'plugins'?" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["plugins", "--knd", "loss"], "No such option: --knd (did you mean --kind?)"),
        (["plugins", "-q"], "No such option: -q"),
        (["plugins", "--kind"], "'--kind' requires an argument"),
        (["plugins", "more"], "more"),
        (["plugins", "--kind", "los"], "did you mean 'loss'?"),
        (["--versoin"], "No such option: --versoin (did you mean --version?)"),
    ],
)
def test_a_wrong_option_is_one_line(run: Run, arguments: list[str], expected: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("cyclevar: error: ")
    assert expected in err
    assert err.count("\n") == 1


def test_a_missing_argument_and_a_wrong_value_are_one_line(run: Run, add: Callable[[str, object], None]) -> None:
    def command(source: str, steps: int = 3) -> None:
        """Do something."""

    add("something", command)
    code, _, err = run("something")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("cyclevar: error: Missing argument")
    assert err.endswith("`cyclevar something --help` describes the options\n")
    code, _, err = run("something", "a", "--steps", "many")
    assert (code, err.count("\n")) == (2, 1)
    assert "Invalid value for '--steps'" in err


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (ConfigError("steps is 0", expected="more\nthan 0"), 2, "cyclevar: error: steps is 0; expected more than 0.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), 2, "error: No space left on device: a.png\n"),
        (KeyboardInterrupt(), 130, ""),
        (typer.Exit(3), 3, ""),
    ],
)
def test_an_error_is_a_line_and_a_code(
    run: Run, add: Callable[[str, object], None], raised: BaseException, code: int, line: str
) -> None:
    def command() -> None:
        """Fail."""
        raise raised

    add("failing", command)
    found, out, err = run("failing")
    assert (found, out) == (code, "")
    assert err.endswith(line)
    assert "Traceback" not in err


def test_a_traceback_can_be_asked_for(
    run: Run, add: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> None:
        """Fail."""
        raise ConfigError("steps is 0")

    monkeypatch.setenv("CYCLEVAR_DEBUG", "1")
    add("failing", command)
    code, _, err = run("failing")
    assert code == 2
    assert "Traceback" in err
    assert err.endswith("cyclevar: error: steps is 0.\n")


def test_an_error_of_our_own_making_is_not_hidden(run: Run, add: Callable[[str, object], None]) -> None:
    def command() -> None:
        """Fail."""
        raise ZeroDivisionError

    add("failing", command)
    with pytest.raises(ZeroDivisionError):
        run("failing")


def test_what_is_logged_becomes_a_line(run: Run, add: Callable[[str, object], None]) -> None:
    def command() -> None:
        """Warn."""
        logging.getLogger("cyclevar.core.anything").warning("the disk is %s", "nearly\nfull")

    add("warning", command)
    assert run("warning") == (0, "", "cyclevar: warning: the disk is nearly full\n")
    assert run("warning")[2].count("warning") == 1


def test_an_app_with_commands_may_stand_in_the_table(run: Run, add: Callable[[str, object], None]) -> None:
    app = typer.Typer(help="Two things.", no_args_is_help=True)
    app.command("one")(lambda: typer.echo("first"))
    app.command("two")(lambda: typer.echo("second"))
    add("things", app)
    assert run("things", "two") == (0, "second\n", "")
    assert "Two things." in run("--help")[1]
    code, out, err = run("things")
    assert code in (0, 2)  # typer has changed its mind about the code and the stream
    assert "Usage: cyclevar things" in out + err


def test_plugins_add_commands(run: Run, plug: Callable[..., None]) -> None:
    def greet(app: typer.Typer) -> None:
        @app.command("greet")
        def greet(name: str) -> None:
            """Say hello."""
            typer.echo(f"hello {name}")

    plug(polite=greet)
    assert run("greet", "you") == (0, "hello you\n", "")
    assert "greet" in run("--help")[1]
    assert "did you mean 'greet'?" in run("gret")[2]


def test_a_plugins_command_that_is_taken_or_fails_is_left_out(run: Run, plug: Callable[..., None]) -> None:
    def take(app: typer.Typer) -> None:
        app.command("plugins")(lambda: typer.echo("mine"))
        app.command("greet")(lambda: typer.echo("first"))

    def take_too(app: typer.Typer) -> None:
        app.command("greet")(lambda: typer.echo("second"))

    def fail(app: typer.Typer) -> None:
        raise ZeroDivisionError("oh")

    plug(a=take, b=take_too, c=fail)
    code, out, err = run("greet")
    assert (code, out) == (0, "first\n")
    assert err.splitlines() == [
        "cyclevar: warning: plugin a adds a command 'plugins', which cyclevar itself has already",
        "cyclevar: warning: plugin b adds a command 'greet', which plugin a has already",
        "cyclevar: warning: plugin c failed in cyclevar_commands: ZeroDivisionError: oh; repair it, uninstall it, or"
        " leave it out with CYCLEVAR_PLUGINS.",
    ]


def test_plugins_lists_what_is_there(run: Run) -> None:
    code, out, err = run("plugins")
    assert (code, err) == (0, "")
    assert re.search(r"^patchgan \(cyclevar [\d.]+, .*patchgan.plugin\.py; cyclevar_register\)$", out, re.MULTILINE)
    assert "  discriminator  patchgan " in out


def test_plugins_as_json(run: Run) -> None:
    code, out, _ = run("plugins", "--json", "--kind", "discriminator")
    assert code == 0
    listing = json.loads(out)
    assert set(listing) == {"plugins", "failures", "disabled"}
    [patchgan] = [plugin for plugin in listing["plugins"] if plugin["name"] == "patchgan"]
    assert patchgan["distribution"] == "cyclevar"
    assert Path(patchgan["file"]).name == "plugin.py"
    assert patchgan["hooks"] == ["cyclevar_register"]
    assert {part["kind"] for plugin in listing["plugins"] for part in plugin["registers"]} == {"discriminator"}


def test_plugins_names_what_was_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = importlib.metadata.EntryPoint("broken", "no_such_module", "cyclevar")
    off = importlib.metadata.EntryPoint("off", "no_such_module", "cyclevar")
    manager = Manager([broken, off], enabled={"broken"})
    monkeypatch.setattr("cyclevar.cli.plugins.get_manager", lambda: manager)
    _, out, _ = run("plugins")
    assert "off (unknown distribution): switched off: CYCLEVAR_PLUGINS does not name it" in out
    assert "broken (unknown distribution): left out: ModuleNotFoundError" in out
    [disabled] = json.loads(run("plugins", "--json")[1])["disabled"]
    assert (disabled["name"], disabled["reason"]) == ("off", "CYCLEVAR_PLUGINS does not name it")


@pytest.fixture
def with_broken(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in a process of its own, where a broken plugin is installed."""
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cyclevar]\nbroken = no_such_module\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cyclevar.cli.main", *arguments],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_broken_plugin_is_one_warning_and_the_rest_works(
    with_broken: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = with_broken("--help")
    assert done.returncode == 0
    assert "Commands:" in done.stdout
    assert done.stderr.splitlines() == [
        "cyclevar: warning: plugin broken (broken 1.0) was left out: ModuleNotFoundError: No module named"
        " 'no_such_module'; repair it, uninstall broken, or leave it out with CYCLEVAR_PLUGINS"
    ]
    assert manager_module.SWITCH in done.stderr


@pytest.mark.parametrize("arguments", [("--no-plugins", "plugins", "--json"), ("plugins", "--json", "--no-plugins")])
def test_without_plugins_none_is_loaded(
    with_broken: Callable[..., subprocess.CompletedProcess[str]], arguments: tuple[str, ...]
) -> None:
    done = with_broken(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    listing = json.loads(done.stdout)
    assert listing["failures"] == []
    assert [plugin["name"] for plugin in listing["disabled"]] == ["broken"]
    assert "patchgan" in [plugin["name"] for plugin in listing["plugins"]]


def test_no_plugins_is_over_when_the_command_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(manager_module.SWITCH, "losses")
    assert run("plugins", "--no-plugins")[0] == 0
    assert os.environ[manager_module.SWITCH] == "losses"
    assert run("plugins", "--", "--no-plugins")[0] == 2  # behind `--` it is an argument like any other
