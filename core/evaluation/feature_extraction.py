"""Running pictures through the nets of an evaluation, batch by batch, nothing twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclevar.core.evaluation.colour import colour_moments
from cyclevar.core.evaluation.feature_cache import FeatureCache
from cyclevar.core.evaluation.metrics import STRUCTURE_LEVEL, self_similarity_distance
from cyclevar.core.evaluation.networks import Judges, Net
from cyclevar.core.evaluation.perceptual import FeatureNetDistance
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.interfaces.criteria import PictureMetric
from cyclevar.core.networks.feature_net import FeatureNet

Roundtrip = Callable[[Tensor], Tensor]
"""Tokenizer encode, quantize, decode: images ``[B,3,H,W]`` in [-1,1] to images."""

Progress = Callable[[str, int, int], None]
"""Called after every batch with what is being looked at, pictures done, pictures in all."""


@dataclass(frozen=True)
class Made:
    """Pictures that ``make`` makes from the set ``source``; ``identity`` tells what it does from anything else."""

    source: str
    make: Roundtrip
    identity: str


@dataclass(frozen=True)
class View:
    """What was seen of one set of N pictures, on the CPU.

    ``pooled [N,D]``; ``moments [N,6]``, of its colours; ``distances``: ``[N]`` by figure and by the set whose picture i
    picture i was compared with; ``features``: by registered figure, what it needs of each; ``matches``: the sets whose
    picture i shows the same thing.
    """

    pooled: Tensor
    moments: Tensor
    distances: Mapping[tuple[str, str], Tensor]
    features: Mapping[str, Tensor]
    matches: frozenset[str]


@dataclass(frozen=True)
class _Seen:
    """What the nets see in one batch; the lists are empty where the net is missing."""

    pooled: Tensor
    moments: Tensor
    layout: list[Tensor]
    perceptual: list[Tensor]
    dino: list[Tensor]
    registered: dict[str, Tensor]


class Looker:
    """Looks at sets of pictures; what the ``cache`` holds is not looked at, or made, again."""

    def __init__(
        self, judges: Judges, batch_size: int, cache: FeatureCache | None, progress: Progress | None, *, total: int
    ) -> None:
        self.judges, self.batch_size, self.cache, self.progress = judges, batch_size, cache, progress
        self.total, self.done = total, 0
        self.identity = repr({use: Net.of(net) for use, net in judges.nets().items()})
        if judges.registered:
            self.identity += repr({name: identify_metric(name, one) for name, one in judges.registered.items()})

    @torch.no_grad()
    def __call__(
        self, sets: Mapping[str, Tensor], made: Mapping[str, Made], *, only_made: bool = False
    ) -> dict[str, View]:
        """A view of each set, and of what is made from them; all are compared with the picture i of each set.

        ``sets``: images ``[N,3,H,W]`` in [-1,1]; of several sets picture i of each shows the same thing. With
        ``only_made`` the sets themselves are not looked at, and nothing is compared.
        """
        count = len(next(iter(sets.values())))
        records = []
        for begin in range(0, count, self.batch_size):
            batch = {name: images[begin : begin + self.batch_size] for name, images in sets.items()}
            if self.cache is None:
                records.append(self._look(batch, made, only_made))
            else:
                key = self._key(batch, made, only_made)
                records.append(self.cache(key, lambda batch=batch: self._look(batch, made, only_made)))  # type: ignore[misc]
            self.done += min(self.batch_size, count - begin) * (len(made) + (0 if only_made else len(sets)))
            if self.progress:
                self.progress(" and ".join(sets), self.done, self.total)
        joined = {name: torch.cat([record[name] for record in records]) for name in records[0]}
        views: dict[str, View] = {}
        for name in [*([] if only_made else sets), *made]:
            distances = {
                (figure, anchor): joined[f"{name}|{figure}|{anchor}"]
                for anchor in sets
                for figure in ("structure_distance", "dino_structure", "perceptual_distance")
                if f"{name}|{figure}|{anchor}" in joined
            }
            views[name] = View(
                joined[f"{name}|pooled"],
                joined[f"{name}|moments"],
                distances,
                {figure: joined[f"{name}|{figure}"] for figure in self.judges.registered if not only_made},
                frozenset(() if only_made else sets),
            )
        return views

    def _look(self, batch: Mapping[str, Tensor], made: Mapping[str, Made], only_made: bool) -> dict[str, Tensor]:
        """The record of one batch: tensors ``[B,...]`` by view and what they hold, as the cache keeps them."""
        device = self.judges.device
        compare = not only_made
        pictures = {**batch, **{name: one.make(batch[one.source]) for name, one in made.items()}}
        seen = {
            name: self._see(images.to(device).float(), compare)
            for name, images in pictures.items()
            if compare or name in made
        }
        record: dict[str, Tensor] = {}
        for name, one in seen.items():
            record |= {f"{name}|pooled": one.pooled, f"{name}|moments": one.moments}
            record |= {f"{name}|{figure}": features for figure, features in one.registered.items()}
            for anchor in batch if compare else ():
                for figure, distance in self._distances(seen[anchor], one).items():
                    record[f"{name}|{figure}|{anchor}"] = distance
        return {name: tensor.cpu() for name, tensor in record.items()}

    def _see(self, images: Tensor, compare: bool) -> _Seen:
        judges, layout, perceptual = self.judges, list[Tensor](), list[Tensor]()
        found = judges.features(images)
        maps: list[Tensor] | None = None
        if compare and judges.layout is not None:
            shared = judges.layout is judges.features
            maps = found.maps if shared else judges.layout.maps(images, STRUCTURE_LEVEL + 1)
            layout = [maps[STRUCTURE_LEVEL]]
        if compare and judges.perceptual is not None:
            shared = isinstance(judges.perceptual, FeatureNetDistance) and judges.perceptual.net is judges.layout
            levels = judges.perceptual.levels if isinstance(judges.perceptual, FeatureNetDistance) else 0
            perceptual = maps[:levels] if shared and maps else list(judges.perceptual.maps(images))
        dino = [judges.dino(images)] if compare and judges.dino is not None else []
        pooled = found.pooled if isinstance(judges.features, FeatureNet) else found
        registered = {name: one.features(images) for name, one in judges.registered.items()} if compare else {}
        return _Seen(pooled, colour_moments(images), layout, perceptual, dino, registered)

    def _distances(self, anchor: _Seen, seen: _Seen) -> dict[str, Tensor]:
        """Distances ``[B]`` by figure, picture by picture."""
        distances = {}
        for figure, ours, theirs in (
            ("structure_distance", anchor.layout, seen.layout),
            ("dino_structure", anchor.dino, seen.dino),
        ):
            if ours and theirs:
                distances[figure] = self_similarity_distance(ours[0], theirs[0])
        if self.judges.perceptual is not None and seen.perceptual:
            distances["perceptual_distance"] = self.judges.perceptual.between(seen.perceptual, anchor.perceptual)
        return distances

    def _key(self, batch: Mapping[str, Tensor], made: Mapping[str, Made], only_made: bool) -> str:
        """What decides the record of a batch: pictures, what is made of them, nets, and the kind of device."""
        digest = hashlib.sha256(f"{self.identity} {only_made} {self.judges.device.type}".encode())
        for name, one in made.items():
            digest.update(f"\n{name}: {one.identity} of {one.source}".encode())
        for name, images in batch.items():
            digest.update(f"\n{name} {list(images.shape)} ".encode() + images.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def identify_metric(name: str, metric: PictureMetric) -> str:
    """What tells a registered figure from any other: its name, owner (with the version) and frozen weights."""
    return f"{name} of {get_manager().registry.get('metric', name).owner} {metric.frozen}"
