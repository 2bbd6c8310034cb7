"""What the commands that sample share: the options that choose a model and how it samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cyclevar.core.errors import ConfigError

if TYPE_CHECKING:
    from cyclevar.core.model import Model

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "--weights",
        metavar="NAME_OR_FILE",
        help="A model file, the run that made it, a published model on this disk (var/d16), or beside "
        "--tokenizer-weights a published transformer.  [default: what ships with the preset]",
    ),
]
TokenizerWeightsOption = Annotated[
    str | None, typer.Option("--tokenizer-weights", metavar="FILE", help="A published tokenizer.")
]
BackboneOption = Annotated[
    str | None, typer.Option("--backbone", metavar="NAME", help="The family of models.  [default: var]")
]
PresetOption = Annotated[str | None, typer.Option("--preset", metavar="NAME", help="Its size.  [default: tiny]")]
GuidanceOption = Annotated[
    str | None,
    typer.Option(
        "--guidance", metavar="NUMBERS", help="Strength of classifier-free guidance, as the family defines it."
    ),
]
TemperatureOption = Annotated[
    str | None, typer.Option("--temperature", metavar="NUMBERS", help="Divides the logits; below 1 plays safe.")
]
TopKOption = Annotated[
    str | None, typer.Option("--top-k", metavar="NUMBERS", help="Draw from the k likeliest codes; 1: the likeliest.")
]
TopPOption = Annotated[
    str | None,
    typer.Option("--top-p", metavar="NUMBERS", help="Draw from the likeliest codes that make up this share."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Other seeds, other pictures.")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]
SamplingOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A sampling setting of the family; see --show-settings; repeatable."
    ),
]


def open_chosen(
    model: str | None, tokenizer_weights: str | None, backbone: str | None, preset: str | None, device: str
) -> Model:
    """The model that the options choose, on its device."""
    from cyclevar.core.models import open_model
    from cyclevar.core.translator import choose_device

    opened = open_model(backbone, preset, weights=model, tokenizer_weights=tokenizer_weights)
    return opened.eval().to(choose_device(device))


def sampling_settings(
    guidance: str | None, temperature: str | None, top_k: str | None, top_p: str | None, overrides: list[str] | None
) -> dict[str, Any]:
    """The settings of `SamplingConfig` that the options change."""
    from cyclevar.core.settings import apply_overrides

    given = {"guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    settings = {name: _numbers(name, text) for name, text in given.items() if text is not None}
    return apply_overrides(settings, overrides or [])


def default_targets(model: Model) -> list[str]:
    """All domains that the model knows by name. Raises `ConfigError` where it knows none."""
    names = list(model.backbone.names)
    if not names:
        raise ConfigError("what to draw is not said", expected=f"--condition: {model.config.conditions()}")
    return names


def _numbers(name: str, text: str) -> float | tuple[float, ...]:
    """``3`` or ``1,2,3``, as it stands on the command line."""
    try:
        numbers = tuple(int(part) if part.strip().isdecimal() else float(part) for part in text.split(","))
    except ValueError as error:
        option = name.replace("_", "-")
        raise ConfigError(f"--{option} is {text!r}", expected="a number, or one a scale, such as 1,1.5,2") from error
    return numbers[0] if len(numbers) == 1 else numbers
