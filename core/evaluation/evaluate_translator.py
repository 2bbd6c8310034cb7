"""Judging a translator on the held-out pictures of a data set."""

from __future__ import annotations

from collections.abc import Collection

from cyclevar.core.data.sources import Part, UnpairedDataset
from cyclevar.core.errors import ConfigError, DataError, UnknownNameError
from cyclevar.core.evaluation.evaluate import evaluate
from cyclevar.core.evaluation.feature_cache import FeatureCache
from cyclevar.core.evaluation.feature_extraction import Progress
from cyclevar.core.evaluation.image_sets import check_limit, read_set, refuse_shared
from cyclevar.core.evaluation.networks import Judges
from cyclevar.core.evaluation.results import METRICS, Evaluation
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.weights.checkpoints import digest

FEW = 0.01
"""Share of a part's pictures that may stand in another: the built-in set draws one emoji twice."""


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
    judges: Judges,
    *,
    split: str | None = None,
    limit: int = 600,
    metrics: Collection[str] = METRICS,
    force: bool = False,
    batch_size: int = 16,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge both directions on held-out pictures; training pictures are the reference of KID-rt.

    ``limit``: at most so many pictures of each domain are judged, and as many are the reference. The figures that need
    true pairs are given only where the data set has them.

    Raises:
        DataError: there is no such part, it has fewer pictures of a domain than a figure needs, or it shares more than
            `FEW` with the other domain or the training part (unless ``force``).
        ConfigError: the domains are not the translator's.
    """
    check_limit(limit)
    domains = match_domains(translator, dataset)
    name, part = held_out(dataset, split)
    side = translator.model.image_size[0]
    held, training = ([read_set(pictures, side, limit) for pictures in lists] for lists in (part, dataset.train))
    notes = list[str]()
    if not force:
        titles = [f"the {name} part of {domain}" for domain in dataset.domains]
        notes += refuse_shared(dict(zip(titles, held, strict=True)), tolerated=FEW)
        for domain, title, ours, trained in zip(dataset.domains, titles, held, training, strict=True):
            notes += refuse_shared({title: ours, f"the training part of {domain}": trained}, tolerated=FEW)
    return evaluate(
        translator,
        translator.round_trip,
        (held[0].images, held[1].images),
        domains,
        reference=(training[0].images, training[1].images),
        judges=judges,
        paired=dataset.paired,
        metrics=metrics,
        force=force,
        notes=notes,
        batch_size=batch_size,
        identity=identify(translator) if cache is not None else "",
        cache=cache,
        progress=progress,
    )


def identify(translator: Translator) -> str:
    """What decides its translations: a hash of its weights and all its settings."""
    model = translator.model
    settings = model.config.model_dump_json(), translator.config.model_dump_json()
    return f"{model.family} {digest(model)} {settings} {translator.domains} {translator.targets}"
