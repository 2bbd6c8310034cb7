"""``cyclevar pretrain``: train a tokenizer, then a backbone, from nothing."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cyclevar.cli._training import (
    AllowChangeOption,
    BackboneOption,
    ConfigOption,
    DataOption,
    DeviceOption,
    DryRunOption,
    KeepOption,
    OtherDataOption,
    OutOption,
    PresetOption,
    ResumeOption,
    SeedOption,
    SetOption,
    SizeOption,
    StepsOption,
    leads,
    print_settings,
    separate,
)


def command(
    backbone: BackboneOption = None,
    preset: PresetOption = None,
    stage: Annotated[
        str | None,
        typer.Option("--stage", metavar="tokenizer|backbone", help="What to train.  [default: tokenizer]"),
    ] = None,
    data: DataOption = None,
    data_b: OtherDataOption = None,
    size: SizeOption = None,
    out: OutOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="A model file to start from, or the run that made it; stage backbone needs one for its tokenizer.",
        ),
    ] = None,
    steps: StepsOption = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Pictures in an update, half of each domain.")
    ] = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    resume: ResumeOption = None,
    allow_change: AllowChangeOption = None,
    keep: KeepOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Train a tokenizer, then a backbone, from nothing: what a translator of new pictures may start from.

    Settings go in this order, later ones first: defaults, --config, options, --set.
    """
    from cyclevar.core.config.pretraining import PretrainConfig
    from cyclevar.core.training.resolve import Prepared, prepare

    options = {
        "backbone": backbone,
        "preset": preset,
        "stage": stage,
        "data.source": data,
        "data.other": data_b,
        "data.size": size,
        "weights": weights,
        "seed": seed,
    }

    def settle(more: dict[str, Any]) -> Prepared[PretrainConfig]:
        return prepare(PretrainConfig, options | more, file=config, overrides=overrides or (), out=out, resume=resume)

    run = settle({})
    of_the_stage = {"loop.steps": steps, "loop.keep": keep, "batch_size": batch_size}
    if any(value is not None for value in of_the_stage.values()):  # the stage may stand in a file or a run
        run = settle({f"{run.config.section}.{name}": value for name, value in of_the_stage.items()})
    if dry_run:
        from cyclevar.core.training.dry_run import check_inputs

        print_settings(run)
        check_inputs(run.config)
        return

    from cyclevar.cli._display import display
    from cyclevar.core.training.launch import pretrain

    with display() as shown:
        allowed = separate(allow_change)
        made = pretrain(
            run.config,
            run.out,
            resume=run.resume,
            numbered=run.numbered,
            display=shown,
            device=device,
            allowed=allowed,
        ).parent
    if not leads():
        return
    typer.echo(f"{made} holds the {run.config.stage}, its metrics.jsonl and samples/. Next:")
    family = "" if run.config.backbone == PretrainConfig().backbone else f" --backbone {run.config.backbone}"
    more = f"{family} --weights {made}{_pictures(run.config.data)}"
    typer.echo(
        f"  cyclevar pretrain --stage backbone{more}" if run.config.stage == "tokenizer" else f"  cyclevar train{more}"
    )


def _pictures(data: Any) -> str:
    """The options that name the same pictures."""
    first = "" if data.source == "emoji" else f" --data {data.source}"
    return first + (f" --data-b {data.other}" if data.other else "")
