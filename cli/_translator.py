"""What the commands that use a translator share: the options that choose it and how it translates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cyclevar.cli._common import parts_in

if TYPE_CHECKING:
    from cyclevar.core.pipelines.translator import Translator

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", metavar="RUN_OR_NAME", help="A finished run, a saved translator, or the name of one that ships."
    ),
]
CheckpointOption = Annotated[
    str,
    typer.Option("--checkpoint", metavar="best|last", help="Of a run: its best step in validation, or its last."),
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]
ModeOption = Annotated[
    str | None,
    typer.Option("--mode", metavar="parallel|serial", help="All scales in one pass, or one after the other."),
]
TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", help="Of the softmax over codes; small values choose hard.")
]
FusionOption = Annotated[
    float | None, typer.Option("--fusion", help="Share of what is predicted, against the source: above 0, up to 1.")
]
TranslationOverrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one translation setting, such as start=add; repeatable."),
]


def open_translator(
    folder: Path,
    device: str,
    mode: str | None = None,
    temperature: float | None = None,
    fusion: float | None = None,
    overrides: list[str] | None = None,
    parts: Mapping[str, Any] | None = None,
) -> Translator:
    """The translator in ``folder``, changed by the options; settings that were not given stay as they were saved.

    ``parts``: what `named_parts` made of the options that ask for parts of plugins.
    """
    from cyclevar.core.config.files import apply_overrides
    from cyclevar.core.pipelines.translator import Translator
    from cyclevar.core.runtime.device import choose_device

    given = {"mode": mode, "temperature": temperature, "fusion": fusion}
    settings = {name: value for name, value in given.items() if value is not None} | dict(parts or {})
    settings = apply_overrides(settings, overrides or [])
    return Translator.load(folder, device=choose_device(device), **settings)


def describe(translator: Translator) -> str:
    """How it translates, and where, for one line: the settings that matter most, and those that are not the default."""
    if not translator.model.has_settings:
        return f"{translator.model.family}, on {translator.model.device}"
    settings, usual = translator.config.model_dump(), type(translator.config)().model_dump()
    shown = [settings.pop("mode"), *(f"{name} {settings.pop(name):g}" for name in ("temperature", "fusion"))]
    shown += list(parts_in(settings.pop("extensions")))
    shown += [f"{name} {value}" for name, value in settings.items() if value != usual[name]]
    return ", ".join([*shown, f"on {translator.model.device}"])
