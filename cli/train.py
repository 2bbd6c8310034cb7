"""``cyclevar train``: fine-tune a model to translate between two domains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from cyclevar.core.runtime.memory import Needs


def command(
    backbone: BackboneOption = None,
    preset: PresetOption = None,
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
            metavar="NAME_OR_FILE",
            help="A model file, the run that made it, a published model on this disk (var/d16), or beside "
            "--tokenizer-weights a published transformer.  [default: what ships]",
        ),
    ] = None,
    tokenizer_weights: Annotated[
        str | None, typer.Option("--tokenizer-weights", metavar="FILE", help="A published tokenizer.")
    ] = None,
    backbone_weights: Annotated[
        str | None, typer.Option("--backbone-weights", metavar="FILE", help="A published transformer.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="default|paper", help="Settings that go together; options go before them."),
    ] = None,
    steps: StepsOption = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Pictures of each domain in an update.")
    ] = None,
    discriminator: Annotated[
        str | None, typer.Option("--discriminator", metavar="NAME", help="What judges pictures.  [default: patchgan]")
    ] = None,
    targets: Annotated[
        tuple[str, str] | None,
        typer.Option("--targets", metavar="A B", help="Class ids or names of the domains.  [default: their own names]"),
    ] = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    resume: ResumeOption = None,
    allow_change: AllowChangeOption = None,
    keep: KeepOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Fine-tune a model to translate between two domains; without options, the tiny one on the built-in emoji.

    Settings go in this order, later ones first: defaults, --config, options, --set.
    """
    from cyclevar.core.config.training import TrainConfig
    from cyclevar.core.training.resolve import prepare

    run = prepare(
        TrainConfig,
        {
            "recipe": recipe,
            "backbone": backbone,
            "preset": preset,
            "data.source": data,
            "data.other": data_b,
            "data.size": size,
            "weights": weights,
            "tokenizer_weights": tokenizer_weights,
            "backbone_weights": backbone_weights,
            "loop.steps": steps,
            "loop.keep": keep,
            "batch_size": batch_size,
            "discriminator.name": discriminator,
            "targets": [int(one) if one.isdecimal() else one for one in targets] if targets else None,
            "seed": seed,
        },
        file=config,
        overrides=overrides or (),
        out=out,
        resume=resume,
    )
    if dry_run:
        from cyclevar.core.training.dry_run import check_inputs

        print_settings(run)
        check_inputs(run.config)
        return

    from cyclevar.cli._display import display
    from cyclevar.core.runtime.memory import explained
    from cyclevar.core.training.launch import train

    def needs() -> Needs:
        from cyclevar.core.diagnostics.memory_estimate import estimate_training

        return estimate_training(run.config)

    with display() as shown, explained(needs):
        allowed = separate(allow_change)
        made = train(
            run.config,
            run.out,
            resume=run.resume,
            numbered=run.numbered,
            display=shown,
            device=device,
            allowed=allowed,
        )
    if not leads():
        return
    typer.echo(f"{made} holds the translator, its metrics.jsonl and samples/. Next:")
    typer.echo(f"  cyclevar translate PICTURES OUT --model {made}")
    typer.echo(f"  cyclevar evaluate --model {made}")
