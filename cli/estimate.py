"""``cyclevar estimate``: how much memory a model needs, before it is tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cyclevar.cli._common import AsJson, print_json
from cyclevar.core.errors import ConfigError, UnknownNameError

MODES = {"translate": "parallel", "serial": "serial", "generate": "generate", "train": "train"}
"""Names of the option, and those that the bench has for the same passes."""


def command(
    mode: Annotated[
        str,
        typer.Option(
            "--mode", metavar="|".join(MODES), help="Translate in one pass or scale by scale, draw, or train."
        ),
    ] = "translate",
    backbone: Annotated[str, typer.Option("--backbone", metavar="NAME", help="The family of models.")] = "var",
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="NAME", help="Its size.  [default: the smallest from 256 pixels on]"),
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", metavar="PIXELS", help="Side of the pictures.  [default: the model's]")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures in a pass; in training, of each domain.")] = 1,
    precision: Annotated[
        str, typer.Option("--precision", metavar="float32|bf16", help="Of the computation; training keeps its weights.")
    ] = "float32",
    lora_rank: Annotated[
        int,
        typer.Option("--lora-rank", min=0, help="Train adapters of this rank; 0: the backbone itself."),
    ] = 0,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Train with blocks computed again in the backward pass.")
    ] = False,
    chunk: Annotated[
        int, typer.Option("--chunk", min=0, help="Train with so many pictures of each domain at a time; 0: the batch.")
    ] = 0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another setting of the training, such as loss.cycle=0."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict parameters and peak memory of a pass; nothing large is built.

    What tensors hold is counted. The process comes on top: Python and torch, on a GPU the CUDA context.
    """
    if mode not in MODES:
        raise UnknownNameError("mode", mode, MODES)

    from rich.console import Console

    from cyclevar.core.bench.config import BenchConfig, default_preset
    from cyclevar.core.config.base import merged, validate
    from cyclevar.core.config.files import apply_overrides

    given = {
        "gradient_checkpointing": checkpointing,
        "lora": {"rank": lora_rank},
        "objective": {"chunk": chunk},
    }
    settings = apply_overrides({}, overrides or [])
    if mode != "train" and (unused := sorted(settings.keys() - {"backbone", "preset", "model"})):
        raise ConfigError(
            f"{unused[0]} is a setting of a training", expected="--mode train with it, or --set model.NAME=VALUE"
        )
    settings = _name_model(settings, backbone, preset)
    config = validate(
        BenchConfig,
        {
            "mode": MODES[mode],
            "backbone": settings["backbone"],
            "preset": settings.get("preset") or default_preset(settings["backbone"]),
            "size": size,
            "batch": batch,
            "dtype": precision,
            "training": merged(given, settings),
        },
    )
    from cyclevar.cli._tables import estimate_table
    from cyclevar.core.diagnostics.memory_estimate import estimate

    with Console(stderr=True).status(f"{backbone} {config.preset}"):
        found = estimate(config)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        Console().print(estimate_table(found, translates=mode in ("translate", "serial")))


def _name_model(settings: Mapping[str, Any], backbone: str, preset: str | None) -> dict[str, Any]:
    """Return the settings with backbone and preset. Order: options < weights by name < settings."""
    from cyclevar.core.training.resolve import name_model

    options: dict[str, Any] = {"backbone": backbone, **({} if preset is None else {"preset": preset})}
    return {**options, **name_model(settings), **settings}
