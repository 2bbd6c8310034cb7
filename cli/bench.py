"""``cyclevar bench``: how long a pass takes, stage by stage, and what the machine could do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cyclevar.cli._common import AsJson
from cyclevar.cli._translator import DeviceOption
from cyclevar.core.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from cyclevar.core.runtime.memory import Needs

MODES = ("parallel", "serial", "generate", "train")
SWEEPS = ("batch", "size", "scales")


def command(
    mode: Annotated[
        str,
        typer.Option(
            "--mode", metavar="|".join(MODES), help="Translate in one pass or scale by scale, draw, or train."
        ),
    ] = "parallel",
    backbone: Annotated[str, typer.Option("--backbone", metavar="NAME", help="The family of models.")] = "var",
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="NAME", help="Its size.  [default: the smallest from 256 pixels on]"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", metavar="FILE", help="A model file or a run.  [default: random ones, which take as long]"
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", metavar="PIXELS", help="Side of the pictures.  [default: the model's]")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Pictures in a pass; in training, of each domain.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Passes of each path, in turn.")] = 5,
    device: DeviceOption = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="auto|float32|bf16", help="auto: bf16 on a GPU that has it.")
    ] = "auto",
    attention: Annotated[
        str, typer.Option("--attention", metavar="auto|xformers|sdpa|dense", help="The kernel of the attention.")
    ] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile encoder, backbone and decoder first.")] = False,
    cpu_time: Annotated[
        bool, typer.Option("--cpu-time", help="On a busy CPU: seconds that one thread computes, not those that pass.")
    ] = False,
    capture: Annotated[bool, typer.Option("--capture", help="Replay a translation as a CUDA graph, on a GPU.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Linear layers in 8 bits, on a CPU.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Time the straightforward path alone.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the training, such as objective.order=turbo."),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", metavar="|".join(SWEEPS), help="Time several values and draw how the time grows."),
    ] = None,
    values: Annotated[str, typer.Option("--values", metavar="N,...", help="The values of --sweep.")] = "",
    out: Annotated[Path, typer.Option("--out", metavar="PNG", help="Where --sweep draws.")] = Path("bench.png"),
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="A B", help="Show two files of --json side by side instead."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare results of different machines.")] = False,
    as_json: AsJson = False,
) -> None:
    """Time a model stage by stage, beside the straightforward path, in turn, and count what it computes.

    Without options: the published VAR-d16 translates pictures of 256x256 pixels in one pass, with random weights, on
    the GPU or on the CPU. "of ceiling" is the share of what this machine reaches in one large matrix product or, for
    encode and decode, in one large convolution.
    """
    from rich.console import Console

    errors = Console(stderr=True)
    if compare is not None:
        from cyclevar.cli._tables import compare as side_by_side
        from cyclevar.core.bench.plot import read

        Console().print(side_by_side(read(compare[0]), read(compare[1]), force=force))
        return
    for name, value, known in (("mode", mode, MODES), ("sweep", sweep, SWEEPS)):
        if value is not None and value not in known:
            raise UnknownNameError(name, value, known)
    if int8 and (plain or mode == "train"):
        raise ConfigError("--int8 belongs to the fast path", expected="it alone, without --plain or --mode train")

    from cyclevar.cli._tables import describe
    from cyclevar.core.bench.config import BenchConfig, default_preset
    from cyclevar.core.bench.plot import plot
    from cyclevar.core.bench.run import BenchResult, bench
    from cyclevar.core.config.base import validate
    from cyclevar.core.config.files import apply_overrides
    from cyclevar.core.runtime.memory import explained

    config = validate(
        BenchConfig,
        {
            "mode": mode,
            "backbone": backbone,
            "preset": preset or default_preset(backbone),
            "weights": weights,
            "size": size,
            "batch": batch,
            "device": device,
            "dtype": dtype,
            "attention": attention,
            "compile": compiled,
            "cpu_time": cpu_time,
            "capture": capture,
            "int8": int8,
            "training": apply_overrides({}, overrides or []),
        },
    )

    def measure(one: BenchConfig) -> BenchResult:
        def needs() -> Needs:
            from cyclevar.core.diagnostics.memory_estimate import estimate

            return estimate(one)

        with errors.status(f"{one.backbone} {one.preset}") as status, explained(needs):
            return bench(one, rounds=rounds, plain=plain, note=lambda text: status.update(f"{one.preset}: {text}"))

    if sweep is None:
        result = measure(config)
        if as_json:
            typer.echo(json.dumps(result.model_dump(mode="json"), indent=2))
        else:
            Console().print(describe(result))
        return

    from cyclevar.core.bench.sweep import sweep as swept

    cases = swept(config, sweep, _numbers(values))  # type: ignore[arg-type]
    results = [measure(one) for one in cases.values()]
    plot(results, sweep, list(cases), out)
    if as_json:
        typer.echo(json.dumps([result.model_dump(mode="json") for result in results], indent=2))
    else:
        for result in results:
            Console().print(describe(result))
        typer.echo(f"drawn: {out}")


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")] if text else []
    except ValueError:
        raise ConfigError(f"--values is {text!r}", expected="whole numbers, as in 1,2,4") from None
