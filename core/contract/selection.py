"""Which parts the contract is tested on, and by which files. Torch-free."""

from __future__ import annotations

from pathlib import Path

from cyclevar.core.errors import PluginError, UnknownNameError
from cyclevar.core.extension.hookspecs import PROJECT
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.extension.registry import Entry

FOLDER = Path(__file__).parent

FILES = {
    "backbone": ("backbone", "tokenizer", "quantizer", "generation", "model"),
    "generator": ("generator",),
    "quantizer": ("quantizer",),
    "discriminator": ("discriminator",),
    "loss": ("loss",),
    "metric": ("metric",),
    "dataset": ("dataset",),
    "visibility": ("visibility",),
    "cache_policy": ("cache_policy",),
    "decoder": ("decoder",),
    "callback": ("callback",),
}
"""Kind -> what its files are called, ``test_NAME.py``. ``test_parts.py`` is for all."""


def chosen_entries(plugin: str | None, kind: str | None = None) -> list[Entry]:
    """The parts of a plugin; None: of all of them; "": of all but cyclevar's own.

    Raises:
        UnknownNameError: no plugin has this name.
        PluginError: it was left out, with the reason.
    """
    manager = get_manager()
    left_out = {failure.name: failure for failure in (*manager.failures, *manager.disabled)}
    names = [one.name for one in manager.plugins]
    if plugin and plugin not in names:
        if plugin in left_out:
            raise PluginError(str(left_out[plugin]))
        raise UnknownNameError("plugin", plugin, names, hint="`cyclevar plugins` lists what is installed")
    return [
        entry
        for one in manager.plugins
        for entry in one.registered
        if (one.name == plugin if plugin else plugin is None or one.distribution != PROJECT)
        and kind in (None, entry.kind)
    ]


def contract_files(plugin: str | None) -> list[Path]:
    """The files with the tests of those parts. Raises as `chosen_entries`, and PluginError where there is no part."""
    kinds = {entry.kind for entry in chosen_entries(plugin)}
    if not kinds:
        raise PluginError(
            f"the plugin {plugin} registers no part" if plugin else "no plugin but cyclevar's own is installed",
            expected="a part whose contract can be tested",
        )
    names = dict.fromkeys(name for kind, files in FILES.items() if kind in kinds for name in files)
    return [FOLDER / f"test_{name}.py" for name in ("parts", *names)]
