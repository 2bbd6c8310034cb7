"""Judge a translator between two domains on held-out pictures, beside what costs nothing and what is the ceiling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cyclevar.core.errors import DataError
from cyclevar.core.evaluation.metrics import (
    STRUCTURE_LEVEL,
    Estimate,
    FrechetDistance,
    copy_ratio,
    fid,
    kid,
    mean_estimate,
    paired_feature_distance,
    retrieval_at_1,
    self_similarity_distance,
)
from cyclevar.core.features import FeatureNet

if TYPE_CHECKING:
    from rich.table import Table

Roundtrip = Callable[[Tensor], Tensor]
"""Tokenizer encode, quantize, decode: images ``[B,3,H,W]`` in [-1,1] to images."""

Translate = Callable[[Tensor, str], Tensor]
"""Images ``[B,3,H,W]`` in [-1,1] and the name of the target domain to images."""

Progress = Callable[[str, int, int], None]
"""Called after every batch with what is being looked at, pictures done, pictures in all."""

COPY_LIMIT = 0.2
"""Below this copy ratio a translator merely copies its input."""


@dataclass(frozen=True)
class Row:
    """The figures of one set of pictures; None where a figure has no meaning (docs/evaluation.md)."""

    name: str
    kid: Estimate | None
    fid: FrechetDistance | None
    kid_rt: Estimate
    structure_distance: Estimate | None
    pair_distance: Estimate | None
    retrieval_at_1: Estimate | None


@dataclass(frozen=True)
class Direction:
    """The judgement of one direction of translation."""

    source: str
    target: str
    rows: tuple[Row, ...]
    copy_ratio: float

    @property
    def name(self) -> str:
        return f"{self.source} > {self.target}"

    @property
    def merely_copies(self) -> bool:
        """Whether the outputs stay so near to their sources that this is no translation."""
        return self.copy_ratio < COPY_LIMIT

    def row(self, name: str) -> Row:
        """The row called ``name``, such as ``"translation"``."""
        return {row.name: row for row in self.rows}[name]


@dataclass(frozen=True)
class Evaluation:
    """Both directions, and what one must know to compare the figures with others.

    ``pictures`` and ``reference_pictures``: how many held-out and training pictures of either domain were used.
    """

    directions: tuple[Direction, Direction]
    paired: bool
    pictures: dict[str, int]
    reference_pictures: dict[str, int]
    feature_net: str
    weights_sha256: str
    input_size: int
    resize_filter: str
    seed: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must not overlook, one sentence each."""
        warnings = [
            f"{direction.name}: the translation merely copies its input (copy ratio {direction.copy_ratio:.2f})."
            for direction in self.directions
            if direction.merely_copies
        ]
        if any(row.fid and row.fid.rank_deficient for direction in self.directions for row in direction.rows):
            warnings.append("FID: too few pictures for a full covariance; compare within this table only, trust KID.")
        return tuple(warnings)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dictionaries, strings and numbers, ready for JSON."""
        return {**asdict(self), "warnings": list(self.warnings)}

    def tables(self) -> tuple[Table, Table]:
        """One table for each direction, captioned with what the figures were computed with."""
        first, second = self.directions
        return self._table(first), self._table(second)

    def _table(self, direction: Direction) -> Table:
        from rich.table import Table

        seen, reference = self.pictures, self.reference_pictures[direction.target]
        caption = (
            f"copy ratio {direction.copy_ratio:.2f}; features of {self.feature_net} {self.weights_sha256[:8]} at "
            f"{self.input_size} px ({self.resize_filter}); {seen[direction.source]} source and "
            f"{seen[direction.target]} target pictures held out, {reference} training pictures for KID-rt; "
            "KID x 1000; 95 % intervals"
        )
        table = Table(title=direction.name, caption=caption)
        table.add_column()
        for heading in ("KID", "FID", "KID-rt", "structure", "pair distance", "retrieval@1"):
            table.add_column(heading, justify="right")
        for row in direction.rows:
            table.add_row(
                row.name,
                _cell(row.kid, "{:.1f}"),
                "-" if row.fid is None else f"{row.fid.value:.1f}" + ("*" if row.fid.rank_deficient else ""),
                _cell(row.kid_rt, "{:.1f}"),
                _cell(row.structure_distance, "{:.2f}"),
                _cell(row.pair_distance, "{:.3f}"),
                _cell(row.retrieval_at_1, "{:.0%}"),
            )
        return table


def evaluate(
    translate: Translate,
    roundtrip: Roundtrip,
    pictures: tuple[Tensor, Tensor],
    domains: tuple[str, str],
    *,
    reference: tuple[Tensor, Tensor],
    net: FeatureNet,
    paired: bool = True,
    batch_size: int = 16,
    seed: int = 0,
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
        net: the feature net; what it sees is moved to its device, the translator gets the pictures where they are.
        seed: of the bootstrap; nothing else is random.

    Raises:
        DataError: fewer than two pictures in a set, or unequal counts although ``paired``.
    """
    if min(len(part) for part in (*pictures, *reference)) < 2:
        raise DataError("a set of pictures to judge has fewer than 2 pictures", expected="2 or more in each")
    if paired and len(pictures[0]) != len(pictures[1]):
        raise DataError(
            f"{len(pictures[0])} and {len(pictures[1])} pictures cannot be true pairs",
            expected="equal counts, or paired=False",
        )
    look = _Looker(
        net, batch_size, progress, total=sum(3 * len(p) + len(r) for p, r in zip(pictures, reference, strict=True))
    )

    def towards(domain: str) -> Roundtrip:
        return lambda batch: translate(batch, domain)

    sides = [
        _Side(
            raw=look(own, images),
            roundtrip=look(f"round trip of {own}", images, roundtrip),
            translation=look(f"{own} > {other}", images, towards(other)),
            reference=look(f"round trip of training {own}", training, roundtrip, with_maps=False).pooled,
        )
        for images, training, own, other in zip(pictures, reference, domains, reversed(domains), strict=True)
    ]
    first, second = (
        Direction(domains[s], domains[t], *_judge(sides[s], sides[t], paired, seed)) for s, t in ((0, 1), (1, 0))
    )
    return Evaluation(
        directions=(first, second),
        paired=paired,
        pictures={name: len(images) for name, images in zip(domains, pictures, strict=True)},
        reference_pictures={name: len(images) for name, images in zip(domains, reference, strict=True)},
        feature_net=net.name,
        weights_sha256=net.weights_sha256,
        input_size=net.input_size,
        resize_filter=net.resize_filter,
        seed=seed,
    )


def pooled_features(
    net: FeatureNet, images: Tensor, transform: Roundtrip | None = None, *, batch_size: int = 16
) -> Tensor:
    """Pooled features ``[N,1280]`` on the CPU of ``images [N,3,H,W]`` in [-1,1], after ``transform`` where given.

    Of the training pictures through the tokenizer's round trip it is what ``quick_kid_rt`` compares with; compute it
    once, as long as the tokenizer is frozen.
    """
    return _Looker(net, batch_size, None, total=len(images))("", images, transform, with_maps=False).pooled


def quick_kid_rt(
    net: FeatureNet, outputs: Tensor, reference: Tensor, *, batch_size: int = 16, seed: int = 0
) -> Estimate:
    """KID-rt of translated pictures ``[N,3,H,W]`` against ``reference`` features ``[M,1280]``, for training runs."""
    return kid(pooled_features(net, outputs, batch_size=batch_size), reference, seed=seed)


@dataclass(frozen=True)
class _Look:
    """Features of one set of pictures: ``pooled [N,D]`` and the maps that show structure, ``[N,C,h,w]`` or empty."""

    pooled: Tensor
    maps: Tensor


@dataclass(frozen=True)
class _Side:
    """All that is looked at of one domain; ``translation`` leads away from it, ``reference`` is pooled only."""

    raw: _Look
    roundtrip: _Look
    translation: _Look
    reference: Tensor


class _Looker:
    """Runs pictures through the feature net in batches and reports how far it is."""

    def __init__(self, net: FeatureNet, batch_size: int, progress: Progress | None, *, total: int) -> None:
        self.net, self.batch_size, self.progress, self.total = net, batch_size, progress, total
        self.done = 0

    @torch.no_grad()
    def __call__(
        self, what: str, images: Tensor, transform: Roundtrip | None = None, *, with_maps: bool = True
    ) -> _Look:
        pooled, maps = [], []
        for batch in torch.split(images, self.batch_size):
            seen = self.net((transform(batch) if transform else batch).to(self.net.mean))
            pooled.append(seen.pooled.cpu())
            maps.append(seen.maps[STRUCTURE_LEVEL].cpu() if with_maps else torch.empty(0))
            self.done += len(batch)
            if self.progress:
                self.progress(what, self.done, self.total)
        return _Look(torch.cat(pooled), torch.cat(maps))


def _judge(source: _Side, target: _Side, paired: bool, seed: int) -> tuple[tuple[Row, ...], float]:
    """The rows of one direction and its copy ratio."""

    def row(name: str, look: _Look, *, of_target: bool = False) -> Row:
        is_target = look is target.raw
        follows_source = paired or not of_target
        return Row(
            name=name,
            kid=None
            if is_target
            else kid(look.pooled, target.raw.pooled, corresponding=paired or of_target, seed=seed),
            fid=None if is_target else fid(look.pooled, target.raw.pooled),
            kid_rt=kid(look.pooled, target.reference, seed=seed),
            structure_distance=mean_estimate(_structure(source.raw, look), seed=seed) if follows_source else None,
            pair_distance=paired_feature_distance(look.pooled, target.raw.pooled, seed=seed)
            if paired and not is_target
            else None,
            retrieval_at_1=retrieval_at_1(look.pooled, target.raw.pooled, seed=seed)
            if paired and not is_target
            else None,
        )

    rows = (
        row("translation", source.translation),
        row("no translation", source.raw),
        row("round trip of source", source.roundtrip),
        row("round trip of true target", target.roundtrip, of_target=True),
        row("true target", target.raw, of_target=True),
    )
    moved = copy_ratio(source.translation.pooled, source.roundtrip.pooled, target.roundtrip.pooled, paired=paired)
    return rows, moved


def _structure(source: _Look, look: _Look) -> Tensor:
    """Structure distances ``[N]``, in chunks: a self-similarity takes as much memory as a picture of side 220."""
    chunks = zip(torch.split(source.maps, 16), torch.split(look.maps, 16), strict=True)
    return torch.cat([self_similarity_distance(ours, theirs) for ours, theirs in chunks])


def _cell(estimate: Estimate | None, form: str) -> str:
    if estimate is None:
        return "-"
    text = form.format(estimate.value)
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{form.format(estimate.low)}, {form.format(estimate.high)}]"
