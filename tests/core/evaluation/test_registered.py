"""Figures that plugins bring stand in the same tables as ours."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import pytest
import torch
from rich.console import Console
from torch import Tensor

from cyclevar.cli._tables import evaluation_tables
from cyclevar.core.errors import DataError, UnknownNameError
from cyclevar.core.evaluation.evaluate import choose_metrics, compare, evaluate
from cyclevar.core.evaluation.feature_cache import FeatureCache
from cyclevar.core.evaluation.networks import Judges
from cyclevar.core.extension.manager import get_manager
from cyclevar.core.extension.registry import Entry
from cyclevar.core.interfaces.criteria import PictureMetric
from cyclevar.core.networks.feature_net import FeatureNet

DOMAINS = ("white", "black")


class Brightness(PictureMetric):
    """The distance of mean brightness, picture by picture; of whole sets where they need not match."""

    title = "brightness"
    form = "{:.4f}"

    def __init__(self, against: Literal["source", "target", "pair"]) -> None:
        super().__init__()
        self.against, self.looked = against, 0

    def features(self, images: Tensor) -> Tensor:
        self.looked += len(images)
        return images.mean((1, 2, 3))

    def compare(self, made: Tensor, others: Tensor) -> Tensor:
        return (made.mean() - others.mean()).abs() if self.against == "target" else (made - others).abs()


NAMES = tuple(f"brightness_{against}" for against in ("source", "target", "pair"))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Brightness]:
    """The three ways of comparing, each registered under its own name."""
    metrics = {f"brightness_{against}": Brightness(against) for against in ("source", "target", "pair")}  # type: ignore[arg-type]
    for name, metric in metrics.items():
        entry = Entry("metric", name, "", "plugin mine (mine 1.0)", lambda metric=metric: metric)
        monkeypatch.setitem(get_manager().registry._entries, ("metric", name), entry)
    return metrics


def test_a_column_each(net: FeatureNet, shapes: Tensor) -> None:
    """Towards black, the translator that darkens is as bright as it should be, and as far from its source as that."""
    found = evaluate(
        lambda images, target: -images,
        lambda images: images,
        (shapes, -shapes),
        DOMAINS,
        reference=(shapes, -shapes),
        judges=Judges(net),
        metrics=NAMES,
    )
    to_black = found.directions[0]
    distance = (2 * shapes.mean((1, 2, 3)).abs()).mean()
    for name, row, expected in [
        ("brightness_source", "translation", distance),
        ("brightness_source", "true target", distance),
        ("brightness_source", "no translation", 0),
        ("brightness_target", "translation", 0),
        ("brightness_target", "no translation", distance),
        ("brightness_pair", "translation", 0),
        ("brightness_pair", "round trip of source", distance),
    ]:
        figure = to_black.row(row).figure(name)
        assert figure is not None, (name, row)
        assert figure.value == pytest.approx(float(expected), abs=1e-6)
    assert to_black.row("true target").registered.keys() == {"brightness_source"}
    interval = to_black.row("translation").registered["brightness_source"]
    assert interval.low is not None
    assert to_black.row("translation").registered["brightness_target"].low is None
    plain = found.to_dict()["directions"][0]["rows"][0]
    assert plain["brightness_source"]["value"] == pytest.approx(float(distance))
    assert "registered" not in plain
    console = Console(file=io.StringIO(), width=200)
    console.print(evaluation_tables(found)[0])
    assert f"{distance:.4f}" in console.file.getvalue()  # type: ignore[attr-defined]


def test_without_pairs_only_what_has_a_meaning(net: FeatureNet, shapes: Tensor) -> None:
    found = compare(-shapes, shapes[:20], shapes, judges=Judges(net), metrics=NAMES, from_source=True, paired=False)
    row = found.directions[0].row("translation")
    assert row.registered.keys() == {"brightness_source", "brightness_target"}
    apart = compare(-shapes, shapes[:20], judges=Judges(net), metrics=NAMES)
    assert apart.directions[0].row("translation").registered.keys() == {"brightness_target"}


def test_features_are_kept(net: FeatureNet, shapes: Tensor, registered: dict[str, Brightness], tmp_path: Path) -> None:
    once, again = (
        compare(shapes, -shapes, judges=Judges(net), metrics=NAMES[1:2], cache=FeatureCache(tmp_path)) for _ in range(2)
    )
    assert once.directions == again.directions
    assert registered["brightness_target"].looked == 2 * len(shapes)


def test_it_says_how_many_pictures_it_needs(
    net: FeatureNet, registered: dict[str, Brightness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registered["brightness_target"], "needed", 9, raising=False)
    few = torch.zeros(4, 3, 32, 32)
    with pytest.raises(DataError, match=r"too few for brightness_target; expected 9 or more"):
        compare(few, few, judges=Judges(net), metrics=NAMES[1:2])


def test_names_of_plugins_are_known_and_asked_for_by_name() -> None:
    assert choose_metrics(["brightness_pair", "kid"]) == ("kid", "brightness_pair")
    with pytest.raises(UnknownNameError, match="did you mean 'brightness_pair'"):
        choose_metrics(["brightness_par"])
