"""The command line ``cyclevar``: which commands there are, and the one place where errors become a line and a code.

A command is imported when it is run or when the help lists it; none imports torch before it runs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, cast

import typer
import typer.core
import typer.main

from cyclevar.cli._common import complain
from cyclevar.core.errors import CyclevarError, UnknownNameError
from cyclevar.core.extension.manager import SWITCH, get_manager
from cyclevar.core.runtime.allocator import keep_freed_memory

NO_PLUGINS = "--no-plugins"

COMMANDS = {
    "demo": "cyclevar.cli.demo:command",
    "translate": "cyclevar.cli.translate:command",
    "evaluate": "cyclevar.cli.evaluate:command",
    "generate": "cyclevar.cli.generate:command",
    "edit": "cyclevar.cli.edit:command",
    "train": "cyclevar.cli.train:command",
    "pretrain": "cyclevar.cli.pretrain:command",
    "report": "cyclevar.cli.report:command",
    "reproduce": "cyclevar.cli.reproduce:command",
    "bench": "cyclevar.cli.bench:command",
    "estimate": "cyclevar.cli.estimate:command",
    "data": "cyclevar.cli.data:app",
    "models": "cyclevar.cli.models:command",
    "doctor": "cyclevar.cli.doctor:command",
    "plugins": "cyclevar.cli.plugins:command",
    "plugin": "cyclevar.cli.plugin:command",
}
"""Name -> "module:attribute" in the order of the help; the attribute is a function, or a typer app with commands."""

Command = typer.core.TyperCommand | typer.core.TyperGroup

# Typer carries its own copy of click in some releases and needs the separate one in others. Its public BadParameter is
# the same class either way, and so are its bases: BadParameter, UsageError, ClickException.
ClickError: type[Exception] = typer.BadParameter.__mro__[2]


class Commands(typer.core.TyperGroup):
    """The commands of the table and, behind them, those of the plugins; each is imported when it is looked up."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, for the help."""
        return [*COMMANDS, *_plugin_commands()]

    def get_command(self, ctx: Any, cmd_name: str) -> Command | None:
        """The command of that name, if there is one."""
        return _own_command(cmd_name) if cmd_name in COMMANDS else _plugin_commands().get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that ``args`` begin with. Raises UnknownNameError for a name that nobody added."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not name.startswith("-"):
            raise UnknownNameError("command", name, self.list_commands(ctx), hint="`cyclevar --help` describes them")
        return super().resolve_command(ctx, args) if command is None else (name, command, args[1:])


def _own_command(name: str) -> Command:
    module, _, attribute = COMMANDS[name].partition(":")
    target = getattr(importlib.import_module(module), attribute)
    app = typer.Typer(rich_markup_mode=None)
    if isinstance(target, typer.Typer):
        app.add_typer(target, name=name)
    else:
        app.command(name)(target)
    return _commands_of(app)[name]


@functools.cache
def _plugin_commands() -> dict[str, Command]:
    """The commands that plugins add; one that fails or takes a used name is left out with a warning."""
    owners = dict.fromkeys(COMMANDS, "cyclevar itself")
    commands: dict[str, Command] = {}
    manager = get_manager()
    for plugin in manager.plugins:
        app = typer.Typer(rich_markup_mode=None)
        try:
            manager.call(plugin, "cyclevar_commands", app=app)
        except CyclevarError as error:
            complain("warning", error)
            continue
        for name, command in _commands_of(app).items():
            if name in owners:
                complain("warning", f"plugin {plugin.name} adds a command {name!r}, which {owners[name]} has already")
                continue
            owners[name] = f"plugin {plugin.name}"
            commands[name] = command
    return commands


def _commands_of(app: typer.Typer) -> dict[str, Command]:
    return cast(dict[str, Command], typer.main.get_group(app).commands)


def _show_version(wanted: bool) -> None:
    if wanted:
        from cyclevar import __version__

        typer.echo(f"cyclevar {__version__}")
        raise typer.Exit


def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    no_plugins: Annotated[
        bool, typer.Option(NO_PLUGINS, help="Leave out all plugins but cyclevar's own; works behind a command too.")
    ] = False,
) -> None:
    """Unpaired image translation in one pass of a pretrained next-scale autoregressive model (CycleVAR)."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for what the user can act on, 130 when interrupted.

    With ``CYCLEVAR_DEBUG=1`` the traceback of an error stands before its line.
    """
    app = typer.Typer(rich_markup_mode=None)
    app.callback(cls=Commands, invoke_without_command=True)(_root)
    keep_freed_memory()
    _plugin_commands.cache_clear()  # plugins may have come and gone since the last command of this process
    log, lines = logging.getLogger("cyclevar"), _Lines()
    log.addHandler(lines)
    try:
        with _plugins_as_asked(sys.argv[1:] if arguments is None else list(arguments)) as left:
            result = typer.main.get_group(app).main(args=left, prog_name="cyclevar", standalone_mode=False)
    except CyclevarError as error:
        return _fail(error, str(error), error.exit_code)
    except ClickError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is a whole help page
            typer.echo(error, err=True)
            return 2
        return _fail(error, _usage(error), 2)
    except OSError as error:
        return _fail(error, f"{error.strerror}: {error.filename}" if error.filename else str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except (RuntimeError, MemoryError) as error:
        from cyclevar.core.runtime.memory import out_of_memory, shortage

        if not out_of_memory(error):
            raise
        return _fail(error, f"{shortage(error)}; try a smaller batch.", 2)
    finally:
        log.removeHandler(lines)
    return result if isinstance(result, int) else 0


@contextlib.contextmanager
def _plugins_as_asked(arguments: list[str]) -> Iterator[list[str]]:
    """Without ``--no-plugins`` the arguments as they are; with it the others, and until the end no stranger's plugins.

    In this process and in those that it starts, hence the environment variable.
    """
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if NO_PLUGINS not in options:
        yield arguments
        return
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = ""
    _forget_plugins()
    try:
        yield [one for one in options if one != NO_PLUGINS] + arguments[len(options) :]
    finally:
        del os.environ[SWITCH]
        if before is not None:
            os.environ[SWITCH] = before
        _forget_plugins()


def _forget_plugins() -> None:
    get_manager.cache_clear()
    _plugin_commands.cache_clear()


class _Lines(logging.Handler):
    """Prints what cyclevar logs, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(record.levelname.lower(), record.getMessage())


def _fail(error: Exception, line: str, code: int) -> int:
    if os.environ.get("CYCLEVAR_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    complain("error", line)
    return code


def _usage(error: Any) -> str:
    """One line for a wrong option or argument: what, the nearest known option, where the help is."""
    near = getattr(error, "possibilities", None)
    problem = f"{error.message} (did you mean {near[0]}?)" if near else error.format_message().rstrip(".")
    where = error.ctx.command_path if getattr(error, "ctx", None) else "cyclevar"
    return f"{problem}; `{where} --help` describes the options"


if __name__ == "__main__":
    sys.exit(main())
