"""``cyclevar scalekv calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="A smaller key-value cache (ScaleKV).", rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def group() -> None:
    """A smaller key-value cache (ScaleKV)."""


@app.command()
def calibrate(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write.")] = Path("budgets.json"),
    backbone: Annotated[str, typer.Option("--backbone", help="The family of models.")] = "var",
    preset: Annotated[str, typer.Option("--preset", help="Its size.")] = "tiny",
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="NAME_OR_FILE", help="As for generate.  [default: what ships]")
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option("--condition", metavar="TEXT", help="A class, name or prompt; repeatable.  [default: all names]"),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Pictures, over all conditions.")] = 10,
    share: Annotated[float, typer.Option("--share", min=0.01, max=1.0, help="Of the cache that stays.")] = 0.1,
    drafters: Annotated[float, typer.Option("--drafters", min=0.0, max=1.0, help="Share of drafters.")] = 0.25,
) -> None:
    """Find out which layers look far back, and write how many tokens each of them keeps."""
    from cyclevar.core.errors import ConfigError
    from cyclevar.core.models.catalog import open_model
    from cyclevar_scalekv.calibrate import calibrate as find

    model = open_model(backbone, preset, weights=weights).eval()
    known = condition or list(model.names)
    if not known:
        raise ConfigError("what to draw is not said", expected=f"--condition: {model.config.conditions()}")
    budgets = find(model, [known[i % len(known)] for i in range(count)], share=share, drafters=drafters)
    budgets.save(out)
    for scale, (tokens, drafting) in enumerate(zip(budgets.tokens, budgets.drafters, strict=True)):
        row = " ".join(f"{kept}{'d' if far else 'r'}" for kept, far in zip(tokens, drafting, strict=True))
        typer.echo(f"after {'x'.join(map(str, model.schedule.sizes[scale]))}: {row}")
    typer.echo("tokens that a layer keeps, d: drafter, r: refiner; use them by")
    typer.echo(f"  cyclevar generate --cache-policy scalekv --set extensions.cache_policy.scalekv.budgets={out}")
