"""Every extension point on one page. A plugin's author needs one import::

    from cyclevar.core.extension.hookspecs import hookimpl

A plugin is a module (or any object) with functions of these names, marked with ``@hookimpl``, that an entry point of
the group ``cyclevar`` names. A function may leave out arguments that it does not use. Hooks are called at set-up only,
plugin by plugin: cyclevar's own first, then the others in the order of their names. Implementations must not import
torch at module level: naming a part is cheap, building it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import typer
    from torch import Tensor

    from cyclevar.core.config.base import Settings
    from cyclevar.core.config.training import TrainConfig
    from cyclevar.core.extension.registry import Registry
    from cyclevar.core.interfaces.callbacks import Callback, Session
    from cyclevar.core.interfaces.model import PictureModel, Step

PROJECT = "cyclevar"
"""The project name of the markers, the prefix of the hooks and the group of the entry points."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def cyclevar_register(registry: Registry) -> None:
    """Name the parts that the plugin brings, with ``registry.add(kind, name, factory, summary=...)``.

    Called by the plugin manager, once, when the plugin is loaded. ``registry`` holds only what this plugin adds; a
    name that another plugin took leaves the whole plugin out. Return nothing.
    """


@hookspec
def cyclevar_configure(config: Settings) -> Settings | None:
    """Change the settings of a run, for example ``config.model_copy(update={...})``.

    Called once a run, with the validated settings and before anything is built; each plugin gets what the one before
    returned. Return the new settings, or None to leave them.
    """


@hookspec
def cyclevar_model_built(model: PictureModel, config: Settings) -> PictureModel | None:
    """Change a model that was just built: add adapters, freeze parameters, replace a part.

    Called by ``cyclevar.build`` with the model and the settings of its family, before weights are loaded; each plugin
    gets what the one before returned. Return the new model, or None to leave the old one (changed in place or not).
    """


@hookspec
def cyclevar_session(session: Session) -> Sequence[Callback] | None:
    """Act at run time: the callbacks to call, or parts put in place with ``session.use(kind, part, owner)``.

    Called once before a generation, a translator's first picture or a training; ``session.task`` says which, and
    ``session.settings`` how. A part that has a name is better registered, and asked for by its name in the settings; a
    plugin that nobody asked for anything changes nothing. Return callbacks, or None.
    """


@hookspec
def cyclevar_losses(
    config: TrainConfig, model: PictureModel
) -> Mapping[str, tuple[float, Callable[[Step], Tensor]]] | None:
    """Losses of the generator beside those of the settings: name -> weight and a function of what a step made.

    Called once, when the training of a translator is put together, with its settings and the model. The function is
    called in every adversarial step and returns a scalar that carries a gradient. Return None for none.
    """


@hookspec
def cyclevar_load_checkpoint(path: Path, target: str) -> Mapping[str, Tensor] | None:
    """Read a weights file of another format: its state dict, in the published names of the family.

    Called before cyclevar reads a published file itself; ``target`` is what it is for, ``tokenizer`` or ``backbone``.
    The first plugin that returns something has read it; return None for a file that is not yours.
    """


@hookspec
def cyclevar_commands(app: typer.Typer) -> None:
    """Add commands to the command line, with ``@app.command("name")`` or ``app.add_typer(...)``.

    Called by ``cyclevar`` when it shows its help or meets a command that is not its own; ``app`` holds only what this
    plugin adds. A name that is taken is refused with a warning. Return nothing.
    """
