"""What the commands that sample share: the options that choose a model and how it samples."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cyclevar.cli._common import CachePolicyOption, CallbackOption, DecoderOption, VisibilityOption, named_parts
from cyclevar.core.errors import ConfigError

if TYPE_CHECKING:
    from cyclevar.core.models.model import Model

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
        "--set", metavar="KEY=VALUE", help="A sampling setting, one of those that generate --show-settings prints."
    ),
]


@dataclass(frozen=True)
class Choice:
    """What the shared options say: which model, and how to sample from it."""

    model: str | None
    tokenizer_weights: str | None
    backbone: str | None
    preset: str | None
    device: str
    seed: int
    settings: Mapping[str, Any]
    """Of `SamplingConfig`, as far as they were given."""

    def open(self) -> Model:
        """The model, on its device."""
        from cyclevar.core.models.catalog import open_model
        from cyclevar.core.runtime.device import choose_device

        opened = open_model(self.backbone, self.preset, weights=self.model, tokenizer_weights=self.tokenizer_weights)
        return opened.eval().to(choose_device(self.device))


def _shared(
    model: ModelOption = None,
    tokenizer_weights: TokenizerWeightsOption = None,
    backbone: BackboneOption = None,
    preset: PresetOption = None,
    guidance: GuidanceOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    seed: SeedOption = 0,
    visibility: VisibilityOption = None,
    cache_policy: CachePolicyOption = None,
    callbacks: CallbackOption = None,
    decoder: DecoderOption = None,
    overrides: SamplingOverrides = None,
    device: DeviceOption = "auto",
) -> Choice:
    from cyclevar.core.config.files import apply_overrides

    given = {"guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    settings = {name: _numbers(name, text) for name, text in given.items() if text is not None}
    settings |= named_parts(visibility=visibility, cache_policy=cache_policy, callbacks=callbacks, decoder=decoder)
    settings = apply_overrides(settings, overrides or [])
    return Choice(model, tokenizer_weights, backbone, preset, device, seed, settings)


def chooses_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose a model and how it samples; it gets them as its argument ``choice``."""
    own = inspect.signature(command, eval_str=True).parameters
    shared = inspect.signature(_shared, eval_str=True).parameters

    @functools.wraps(command)
    def run(**given: Any) -> None:
        choice = _shared(**{name: given.pop(name) for name in shared})
        command(choice=choice, **given)

    parameters = [*(parameter for name, parameter in own.items() if name != "choice"), *shared.values()]
    by_name = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__
    return run


def pair(option: str, text: str, between: str) -> tuple[float, float]:
    """Two positive numbers of an option. Raises `ConfigError` for anything else."""
    try:
        first, second = (float(part) for part in text.lower().split(between))
    except ValueError:
        first = second = 0.0
    if not (0 < first < 1e5 and 0 < second < 1e5):
        example = {"x": "64x96 (height x width)", ":": "16:9 (width : height)"}[between]
        raise ConfigError(f"{option} is {text!r}", expected=f"two numbers, such as {example}")
    return first, second


def pixels(option: str, text: str) -> tuple[int, int]:
    """Height and width, as in ``64x96``."""
    height, width = pair(option, text, "x")
    return round(height), round(width)


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
