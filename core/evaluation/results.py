"""The metrics of an evaluation and its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cyclevar.core.evaluation.metrics import Estimate, FrechetDistance
from cyclevar.core.evaluation.networks import INCEPTION_SHA256, InceptionNet, Net

COPY_LIMIT = 0.2
"""Below this copy ratio a translator merely copies its input."""


@dataclass(frozen=True)
class Metric:
    """A figure of the tables: its title, how a value is written, and how many pictures it needs on either side."""

    title: str
    form: str
    needed: int = 2


ENOUGH = 20
"""Pictures on either side below which a distance between sets says nothing: its interval is wider than its value."""


FIGURES = {
    "kid": Metric("KID", "{:.1f}", ENOUGH),
    "fid": Metric("FID", "{:.1f}", ENOUGH),
    "kid_rt": Metric("KID-rt", "{:.1f}", ENOUGH),
    "precision": Metric("precision", "{:.0%}", ENOUGH),
    "recall": Metric("recall", "{:.0%}", ENOUGH),
    "structure_distance": Metric("structure", "{:.2f}"),
    "dino_structure": Metric("DINO structure", "{:.2f}"),
    "perceptual_distance": Metric("perceptual", "{:.3f}"),
    "pair_distance": Metric("pair distance", "{:.3f}"),
    "retrieval_at_1": Metric("retrieval@1", "{:.0%}"),
    "colour_shift": Metric("colour", "{:.1f}"),
}


METRICS = (*FIGURES, "copy_ratio")
"""Names of our figures: the fields of `Row`, and the copy ratio of a direction (docs/evaluation.md). Plugins register
others, which are computed where they are asked for by name."""


@dataclass(frozen=True)
class Row:
    """The figures of one set of pictures; None where a figure has no meaning or was not asked for."""

    name: str
    kid: Estimate | None = None
    fid: FrechetDistance | None = None
    kid_rt: Estimate | None = None
    precision: Estimate | None = None
    recall: Estimate | None = None
    structure_distance: Estimate | None = None
    dino_structure: Estimate | None = None
    perceptual_distance: Estimate | None = None
    pair_distance: Estimate | None = None
    retrieval_at_1: Estimate | None = None
    colour_shift: Estimate | None = None
    registered: Mapping[str, Estimate] = field(default_factory=dict)
    """Figures of plugins, by name."""

    def figure(self, name: str) -> Estimate | FrechetDistance | None:
        """The figure of that name."""
        found: Estimate | FrechetDistance | None = getattr(self, name) if name in FIGURES else self.registered.get(name)
        return found

    def to_dict(self) -> dict[str, Any]:
        """All figures by name, and the row's."""
        plain: dict[str, Any] = asdict(self)
        registered: dict[str, Any] = plain.pop("registered")
        return plain | registered


@dataclass(frozen=True)
class Direction:
    """The judgement of one direction of translation; ``source`` is "" where no source pictures were given."""

    source: str
    target: str
    rows: tuple[Row, ...]
    copy_ratio: float | None

    @property
    def name(self) -> str:
        return f"{self.source} > {self.target}".removeprefix(" > ")

    @property
    def merely_copies(self) -> bool:
        """Whether the outputs stay so near to their sources that this is no translation."""
        return self.copy_ratio is not None and self.copy_ratio < COPY_LIMIT

    def row(self, name: str) -> Row:
        """The row called ``name``, such as ``"translation"``."""
        return {row.name: row for row in self.rows}[name]


@dataclass(frozen=True)
class Evaluation:
    """All directions, and what one must know to compare the figures with others.

    ``pictures`` and ``reference_pictures``: how many held-out and training pictures of each domain were used, at
    ``size`` pixels (height, width). ``nets``: what looked at them, by what it is for.
    """

    directions: tuple[Direction, ...]
    paired: bool
    pictures: dict[str, int]
    reference_pictures: dict[str, int]
    size: tuple[int, int]
    metrics: tuple[str, ...]
    nets: dict[str, Net]
    seed: int
    notes: tuple[str, ...] = ()
    registered: Mapping[str, Metric] = field(default_factory=dict)
    """How the figures of plugins are shown."""

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
        features = self.nets["features"]
        if features.name == InceptionNet.name and not features.weights_sha256.startswith(INCEPTION_SHA256):
            warnings.append("Inception's weights are not the published ones: compare with the same weights only.")
        return (*warnings, *self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dictionaries, strings and numbers, ready for JSON."""
        plain = asdict(self)
        del plain["notes"], plain["registered"]
        for direction, ours in zip(plain["directions"], self.directions, strict=True):
            direction["rows"] = tuple(row.to_dict() for row in ours.rows)
        return {**plain, "warnings": list(self.warnings)}
