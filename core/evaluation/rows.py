"""Compute the rows of an evaluation from the features of its image sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cyclevar.core.evaluation.feature_extraction import View
from cyclevar.core.evaluation.metrics import (
    NEIGHBOURS,
    Estimate,
    colour_shift,
    fid,
    kid,
    mean_estimate,
    paired_feature_distance,
    precision,
    retrieval_at_1,
)
from cyclevar.core.evaluation.results import Row
from cyclevar.core.interfaces.criteria import PictureMetric


@dataclass(frozen=True)
class RowJudge:
    """Makes the rows of one direction from what was seen, ``views`` by set; ``reference``: of training targets' round
    trips."""

    source: str
    target: str
    views: Mapping[str, View]
    paired: bool
    reference: View | None
    metrics: Sequence[str]
    seed: int
    registered: Mapping[str, PictureMetric]

    @property
    def targets(self) -> View:
        """The held-out pictures that the translations should look like."""
        return self.views[self.target]

    def row(self, name: str, view: View, *, of_target: bool = False) -> Row:
        """``of_target``: the pictures come from the held-out targets themselves, not from the sources."""
        figures: dict[str, Any] = {
            "structure_distance": self._mean(view, "structure_distance", self.source),
            "dino_structure": self._mean(view, "dino_structure", self.source),
        }
        if self.reference is not None:
            figures["kid_rt"] = kid(view.pooled, self.reference.pooled, seed=self.seed)
        if view is not self.targets:
            figures |= self._against_targets(view, corresponding=self.paired or of_target)
        registered = {name: self._registered(name, view) for name in self.registered}
        return Row(
            name,
            **{name: figure for name, figure in figures.items() if name in self.metrics},
            registered={name: figure for name, figure in registered.items() if figure is not None},
        )

    def _registered(self, name: str, view: View) -> Estimate | None:
        """The figure of a plugin, where it has a meaning."""
        metric = self.registered[name]
        anchor = self.source if metric.against == "source" else self.target
        others = self.views.get(anchor)
        applies = {
            "source": anchor in view.matches,
            "target": view is not others,
            "pair": self.paired and anchor in view.matches and view is not others,
        }
        if others is None or not applies[metric.against]:
            return None
        found = metric.compare(view.features[name], others.features[name])
        if found.ndim == 0:
            return Estimate(float(found))
        return mean_estimate(found, seed=self.seed)

    def _against_targets(self, view: View, *, corresponding: bool) -> dict[str, Any]:
        x, y, seed = view.pooled, self.targets.pooled, self.seed
        lazily: dict[str, Callable[[], Any]] = {
            "kid": lambda: kid(x, y, corresponding=corresponding, seed=seed),
            "fid": lambda: fid(x, y),
            "colour_shift": lambda: colour_shift(
                view.moments, self.targets.moments, corresponding=corresponding, seed=seed
            ),
        }
        if min(len(x), len(y)) > NEIGHBOURS:  # else there is no such figure, not even with force
            lazily |= {
                "precision": lambda: precision(x, y, seed=seed),
                "recall": lambda: precision(y, x, seed=seed),
            }
        if self.paired:
            lazily |= {
                "perceptual_distance": lambda: self._mean(view, "perceptual_distance", self.target),
                "pair_distance": lambda: paired_feature_distance(x, y, seed=seed),
                "retrieval_at_1": lambda: retrieval_at_1(x, y, seed=seed),
            }
        return {name: compute() for name, compute in lazily.items() if name in self.metrics}

    def _mean(self, view: View, figure: str, anchor: str) -> Estimate | None:
        distances = view.distances.get((figure, anchor))
        return None if distances is None else mean_estimate(distances, seed=self.seed)
