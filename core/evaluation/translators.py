"""Judging a translator on the held-out pictures of a data set."""

from __future__ import annotations

from cyclevar.core.data.batches import stack
from cyclevar.core.data.datasets import Part, UnpairedDataset
from cyclevar.core.errors import ConfigError, DataError, UnknownNameError
from cyclevar.core.evaluation.evaluate import Evaluation, Progress, evaluate
from cyclevar.core.features import FeatureNet
from cyclevar.core.translator import Translator


def held_out(dataset: UnpairedDataset, split: str | None = None) -> tuple[str, Part]:
    """The name and pictures of a held-out part: ``split``, or the first of test and validation that there is.

    Raises `DataError` where it is missing, `UnknownNameError` where there is no such part.
    """
    parts = {"test": dataset.test, "validation": dataset.validation}
    if split is not None and split not in parts:
        raise UnknownNameError("held-out part", split, parts)
    for name, part in parts.items():
        if part is not None and split in (None, name):
            return name, part
    there = ", ".join(name for name, part in parts.items() if part) or "none: it has too few pictures"
    raise DataError(f"{dataset.name} has no {split or 'held-out'} part", expected=f"a part that is there ({there})")


def match_domains(translator: Translator, dataset: UnpairedDataset) -> tuple[str, str]:
    """What the translator calls the domains of a data set: their own names or, where it knows neither, its in order.

    Raises `ConfigError` where only one name is known, or the translator has not two domains of its own.
    """
    known = [name for name in dataset.domains if name in translator.domains]
    if len(known) == 2:
        return dataset.domains
    if known or len(translator.domains) != 2:
        raise ConfigError(
            f"the pictures are of {' and '.join(dataset.domains)}",
            expected=f"two of the translator's domains: {', '.join(translator.domains)}",
            hint="rename the folders of pictures",
        )
    first, second = translator.domains
    return first, second


def evaluate_translator(
    translator: Translator,
    dataset: UnpairedDataset,
    net: FeatureNet,
    *,
    split: str | None = None,
    limit: int = 600,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge both directions on held-out pictures; training pictures are the reference of KID-rt.

    ``limit``: at most so many pictures of each domain are judged, and as many are the reference. The figures that need
    true pairs are given only where the data set has them.

    Raises:
        DataError: there is no such part, or it has fewer than two pictures of a domain.
        ConfigError: the domains are not the translator's.
    """
    if limit < 2:
        raise ConfigError(f"the limit is {limit}", expected="2 or more")
    domains = match_domains(translator, dataset)
    _, part = held_out(dataset, split)
    side = translator.model.image_size[0]
    a, b, train_a, train_b = (stack(pictures, side, limit) for pictures in (*part, *dataset.train))
    return evaluate(
        translator,
        translator.round_trip,
        (a, b),
        domains,
        reference=(train_a, train_b),
        net=net,
        paired=dataset.paired,
        batch_size=batch_size,
        progress=progress,
    )
