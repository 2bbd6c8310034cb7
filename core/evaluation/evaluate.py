"""Judge translations on held-out pictures, beside what costs nothing and what is the ceiling."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from cyclevar.core.errors import DataError, UnknownNameError
from cyclevar.core.evaluation.feature_cache import FeatureCache
from cyclevar.core.evaluation.feature_extraction import Looker, Made, Progress, Roundtrip, View
from cyclevar.core.evaluation.metrics import Estimate, copy_ratio, kid
from cyclevar.core.evaluation.networks import NEEDS, Judges, Net
from cyclevar.core.evaluation.results import FIGURES, METRICS, Direction, Evaluation, Metric
from cyclevar.core.evaluation.rows import RowJudge
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.interfaces.criteria import PictureMetric
from cyclevar.core.networks.feature_net import FeatureNet

Translate = Callable[[Tensor, str], Tensor]
"""Images ``[B,3,H,W]`` in [-1,1] and the name of the target domain to images."""


def evaluate(
    translate: Translate,
    roundtrip: Roundtrip,
    pictures: tuple[Tensor, Tensor],
    domains: tuple[str, str],
    *,
    reference: tuple[Tensor, Tensor],
    judges: Judges,
    paired: bool = True,
    metrics: Collection[str] = METRICS,
    force: bool = False,
    batch_size: int = 16,
    seed: int = 0,
    notes: Sequence[str] = (),
    identity: str = "",
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge both directions between two domains on held-out pictures.

    Args:
        translate: the translator; it gets a batch and the name of the domain that it shall look like.
        roundtrip: its tokenizer's encode, quantize and decode.
        pictures: held-out pictures of either domain, float ``[N,3,H,W]`` in [-1,1]; where ``paired``, picture i of both
            shows the same thing, otherwise the counts may differ and the figures that need pairs are None.
        domains: their names, as ``translate`` knows them.
        reference: training pictures of either domain, whose round trips KID-rt compares with.
        judges: the nets; what they see is moved to their device, the translator gets the pictures where they are.
        metrics: the figures to compute, of `METRICS` or registered by plugins.
        force: go on with fewer pictures than a figure needs.
        seed: of the bootstrap; nothing else is random.
        notes: warnings to go with the figures.
        identity: what tells this translator from any other, for the ``cache``, in which nothing is kept without it.

    Raises:
        DataError: fewer pictures in a set than a figure needs, or unequal counts although ``paired``.
        UnknownNameError: a metric that does not exist.
    """
    metrics = choose_metrics(metrics)
    judges = only_needed(judges, metrics)
    training = {f"training {name}": images for name, images in zip(domains, reference, strict=True)}
    held_out = dict(zip(domains, pictures, strict=True))
    used = {**held_out, **(training if "kid_rt" in metrics else {})}
    _demand_enough(used, judges, metrics, force)
    if paired and len(pictures[0]) != len(pictures[1]):
        raise DataError(
            f"{len(pictures[0])} and {len(pictures[1])} pictures cannot be true pairs",
            expected="equal counts, or paired=False",
        )
    total = sum(map(len, used.values())) + 2 * sum(map(len, pictures))
    look = Looker(judges, batch_size, cache if identity else None, progress, total=total)

    def trips(names: Collection[str]) -> dict[str, Made]:
        return {f"round trip of {name}": Made(name, roundtrip, f"{identity} round trip") for name in names}

    def towards(domain: str) -> Roundtrip:
        return lambda batch: translate(batch, domain)

    made = trips(domains)
    for own, other in zip(domains, reversed(domains), strict=True):
        made[f"{own} > {other}"] = Made(own, towards(other), f"{identity} to {other}")
    views: dict[str, View] = {}
    for group in [held_out] if paired else [{name: images} for name, images in held_out.items()]:
        views |= look(group, {name: one for name, one in made.items() if one.source in group})
    if "kid_rt" in metrics:
        for name, images in training.items():
            views |= look({name: images}, trips([name]), only_made=True)

    def direction(source: str, target: str) -> Direction:
        of_target = views[f"round trip of {target}"], views[target]
        trained = views.get(f"round trip of training {target}")
        judge = RowJudge(source, target, views, paired, trained, metrics, seed, judges.registered)
        rows = (
            judge.row("translation", views[f"{source} > {target}"]),
            judge.row("no translation", views[source]),
            judge.row("round trip of source", views[f"round trip of {source}"]),
            judge.row("round trip of true target", of_target[0], of_target=True),
            judge.row("true target", of_target[1], of_target=True),
        )
        sources, outputs = views[f"round trip of {source}"].pooled, views[f"{source} > {target}"].pooled
        moved = copy_ratio(outputs, sources, of_target[0].pooled, paired=paired) if "copy_ratio" in metrics else None
        return Direction(source, target, rows, moved)

    first, second = domains
    return Evaluation(
        directions=(direction(first, second), direction(second, first)),
        paired=paired,
        pictures={name: len(images) for name, images in held_out.items()},
        reference_pictures={name.removeprefix("training "): len(used[name]) for name in training if name in used},
        size=_size(pictures[0]),
        metrics=metrics,
        nets={use: Net.of(net) for use, net in judges.nets().items()},
        seed=seed,
        notes=tuple(notes),
        registered=_shown(judges),
    )


def compare(
    generated: Tensor,
    target: Tensor,
    source: Tensor | None = None,
    *,
    names: tuple[str, str] = ("source", "target"),
    judges: Judges,
    from_source: bool = True,
    paired: bool = False,
    metrics: Collection[str] = METRICS,
    force: bool = False,
    batch_size: int = 16,
    seed: int = 0,
    notes: Sequence[str] = (),
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge finished pictures, whoever made them, by the figures and the code of `evaluate`.

    Args:
        generated, target, source: float ``[N,3,H,W]`` in [-1,1]; without ``source`` the figures that need it are None.
        names: of source and target, for people.
        from_source: picture i of ``generated`` was made from picture i of ``source``.
        paired: picture i of ``generated`` has picture i of ``target`` as its true counterpart.
        notes: warnings to go with the figures.

    KID-rt, which needs a tokenizer, is None. Raises as `evaluate` does.
    """
    metrics = tuple(name for name in choose_metrics(metrics) if name != "kid_rt")
    given = {"generated": generated, "target": target, **({} if source is None else {"source": source})}
    judges = only_needed(judges, metrics)
    _demand_enough(given, judges, metrics, force)
    look = Looker(judges, batch_size, cache, progress, total=sum(map(len, given.values())))
    apart = {name for name, joins in (("target", paired), ("source", from_source)) if not joins}
    views = look({name: images for name, images in given.items() if name not in apart}, {})
    for name in apart & given.keys():
        views |= look({name: given[name]}, {})
    judge = RowJudge("source", "target", views, paired, None, metrics, seed, judges.registered)
    rows = [judge.row("translation", views["generated"])]
    moved = None
    if "source" in views:
        known = paired and from_source
        rows.append(replace(judge, paired=known).row("no translation", views["source"]))
        if from_source and "copy_ratio" in metrics:
            moved = copy_ratio(*(views[name].pooled for name in ("generated", "source", "target")), paired=known)
        if known:
            rows.append(judge.row("true target", views["target"], of_target=True))
    return Evaluation(
        directions=(Direction(names[0] if "source" in views else "", names[1], tuple(rows), moved),),
        paired=paired,
        pictures={name: len(images) for name, images in given.items()},
        reference_pictures={},
        size=_size(generated),
        metrics=metrics,
        nets={use: Net.of(net) for use, net in judges.nets().items()},
        seed=seed,
        notes=tuple(notes),
        registered=_shown(judges),
    )


def choose_metrics(names: Collection[str]) -> tuple[str, ...]:
    """The metrics of these names in the order of `METRICS`, then those of plugins.

    Raises `UnknownNameError` for a name that none has.
    """
    known = dict.fromkeys((*METRICS, *get_manager().registry.names("metric")))
    for name in names:
        if name not in known:
            raise UnknownNameError("metric", name, known)
    return tuple(name for name in known if name in names)


def only_needed(judges: Judges, metrics: Collection[str]) -> Judges:
    """Without the nets that no figure of ``metrics`` needs, and with the figures of plugins among them."""
    unneeded: dict[str, Any] = {net: None for name, net in NEEDS.items() if name not in metrics}
    others = [name for name in metrics if name not in METRICS]
    registered = {name: judges.registered.get(name) or build_metric(name).to(judges.device) for name in others}
    return replace(judges, **unneeded, registered=registered)


def build_metric(name: str) -> PictureMetric:
    """A registered figure. Raises `UnknownNameError`, and what its factory raises."""
    metric = get_manager().build("metric", name, {})
    assert isinstance(metric, PictureMetric)
    return metric.eval().requires_grad_(False)


def pooled_features(
    net: FeatureNet, images: Tensor, transform: Roundtrip | None = None, *, batch_size: int = 16
) -> Tensor:
    """Pooled features ``[N,1280]`` on the CPU of ``images [N,3,H,W]`` in [-1,1], after ``transform`` where given.

    Of the training pictures through the tokenizer's round trip it is what ``quick_kid_rt`` compares with; compute it
    once, as long as the tokenizer is frozen.
    """
    look = Looker(Judges(net), batch_size, None, None, total=len(images))
    if transform is None:
        return look({"": images}, {})[""].pooled
    return look({"": images}, {"made": Made("", transform, "")}, only_made=True)["made"].pooled


def quick_kid_rt(
    net: FeatureNet, outputs: Tensor, reference: Tensor, *, batch_size: int = 16, seed: int = 0
) -> Estimate:
    """KID-rt of translated pictures ``[N,3,H,W]`` against ``reference`` features ``[M,1280]``, for training runs."""
    return kid(pooled_features(net, outputs, batch_size=batch_size), reference, seed=seed)


def _demand_enough(sets: Mapping[str, Tensor], judges: Judges, metrics: Collection[str], force: bool) -> None:
    """Raise `DataError` for the first figure that has fewer pictures than it needs."""
    fewest = min(sets, key=lambda name: len(sets[name]))
    count = len(sets[fewest])
    if count < 2:
        raise DataError(f"a set of pictures to judge, {fewest}, has fewer than 2 pictures", expected="2 or more")
    needed = {name: metric.needed for name, metric in {**FIGURES, **_shown(judges)}.items()}
    lacking = [name for name in metrics if count < needed.get(name, 0)]
    if lacking and not force:
        raise DataError(
            f"{count} pictures of {fewest} are too few for {', '.join(lacking)}",
            expected=f"{max(needed[name] for name in lacking)} or more on each side",
            hint="give more, choose other figures by --metrics, or go on with --force",
        )


def _shown(judges: Judges) -> dict[str, Metric]:
    return {name: Metric(one.title, one.form, one.needed) for name, one in judges.registered.items()}


def _size(images: Tensor) -> tuple[int, int]:
    return int(images.shape[-2]), int(images.shape[-1])
