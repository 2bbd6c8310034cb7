"""What the commands that train share: their options, and how the settings are shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cyclevar.core.training.resolve import Prepared

BackboneOption = Annotated[
    str | None, typer.Option("--backbone", metavar="NAME", help="What to train: a family of models.  [default: var]")
]
PresetOption = Annotated[str | None, typer.Option("--preset", metavar="NAME", help="Its size.  [default: tiny]")]
DataOption = Annotated[
    str | None,
    typer.Option("--data", metavar="PATH", help="Pictures of both domains, or of the first.  [default: emoji]"),
]
OtherDataOption = Annotated[
    str | None, typer.Option("--data-b", metavar="PATH", help="Pictures of the second domain, if they lie apart.")
]
SizeOption = Annotated[int | None, typer.Option("--size", help="Side of the pictures.  [default: the model's]")]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The run folder.  [default: a new one in runs/]")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE.yaml", help="Settings; options go before them.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting that --dry-run shows, as ema=0.99; repeatable."),
]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Updates to make.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Of everything random.  [default: 0]")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]
ResumeOption = Annotated[
    str | None,
    typer.Option("--resume", metavar="auto|RUN", help="Go on with a run: the newest that fits, or the named one."),
]
AllowChangeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-change",
        metavar="NAME,...",
        help="Settings, sections or data that --resume may change, as loop.steps; repeatable.",
    ),
]
KeepOption = Annotated[int | None, typer.Option("--keep", metavar="N", help="Checkpoints to keep.  [default: 2]")]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the settings as YAML, check that data and weights fit, and stop."),
]


def separate(names: list[str] | None) -> list[str]:
    """The names in options that may be repeated, or hold several with commas between them."""
    return [name.strip() for one in names or () for name in one.split(",")]


def leads() -> bool:
    """Whether this process speaks for all that train together."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def print_settings(prepared: Prepared[Any]) -> None:
    """Print complete settings as YAML, below a comment that names the run folder."""
    from cyclevar.core.config.files import dump_yaml

    doing = "would go on with" if prepared.resume else "would write"
    typer.echo(f"# {doing} {prepared.out}")
    typer.echo(dump_yaml(prepared.config.model_dump(mode="json")), nl=False)
