"""The whole judgement on two toy domains: shapes on white, and the same shapes inverted."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from cyclevar.cli._tables import evaluation_tables
from cyclevar.core.errors import DataError, UnknownNameError
from cyclevar.core.evaluation.evaluate import Translate, choose_metrics, evaluate, pooled_features, quick_kid_rt
from cyclevar.core.evaluation.networks import Judges
from cyclevar.core.evaluation.results import Evaluation
from cyclevar.core.networks.feature_net import FeatureNet

DOMAINS = ("white", "black")


def blur(images: Tensor) -> Tensor:
    """What a tokenizer loses."""
    return F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")


def invert(images: Tensor, target: str) -> Tensor:
    """The perfect translator: the blurred true pair."""
    return blur(-images)


def copy(images: Tensor, target: str) -> Tensor:
    """The translator that does nothing."""
    return blur(images)


def judge(net: FeatureNet, shapes: Tensor, training: Tensor, translate: Translate, batch_size: int = 16) -> Evaluation:
    return evaluate(
        translate,
        blur,
        (shapes, -shapes),
        DOMAINS,
        reference=(training, -training),
        judges=Judges.of(net),
        batch_size=batch_size,
        force=True,
    )


@pytest.fixture(scope="module")
def perfect(net: FeatureNet, shapes: Tensor, other_shapes: Tensor) -> Evaluation:
    return judge(net, shapes, other_shapes, invert)


@pytest.fixture(scope="module")
def copied(net: FeatureNet, shapes: Tensor, other_shapes: Tensor) -> Evaluation:
    return judge(net, shapes, other_shapes, copy)


def test_the_perfect_translator_reaches_the_floor(perfect: Evaluation) -> None:
    for direction in perfect.directions:
        assert replace(direction.row("translation"), name="floor") == replace(
            direction.row("round trip of true target"), name="floor"
        )
        assert direction.copy_ratio == pytest.approx(1)
        assert not direction.merely_copies


def test_a_copy_scores_as_the_round_trip_of_the_source(copied: Evaluation) -> None:
    for direction in copied.directions:
        assert replace(direction.row("translation"), name="copy") == replace(
            direction.row("round trip of source"), name="copy"
        )
        assert direction.copy_ratio == pytest.approx(0, abs=1e-6)
    assert [warning for warning in copied.warnings if "merely copies" in warning] == [
        "white > black: the translation merely copies its input (copy ratio 0.00).",
        "black > white: the translation merely copies its input (copy ratio 0.00).",
    ]


def test_the_floor_is_below_no_translation(perfect: Evaluation) -> None:
    for direction in perfect.directions:
        floor, nothing = direction.row("translation").kid_rt, direction.row("round trip of source").kid_rt
        assert floor.high is not None
        assert nothing.low is not None
        assert floor.high < nothing.low


def test_no_translation_keeps_the_structure(perfect: Evaluation) -> None:
    for direction in perfect.directions:
        structure = direction.row("no translation").structure_distance
        assert structure is not None
        assert (structure.value, structure.low, structure.high) == (0, 0, 0)


def test_both_directions_start_equally_far_apart(perfect: Evaluation) -> None:
    """KID and FID are symmetric and the sets without translation are the same two."""
    first, second = (direction.row("no translation") for direction in perfect.directions)
    assert first.kid is not None
    assert second.kid is not None
    assert first.kid.value == pytest.approx(second.kid.value)


def test_the_true_target_is_not_compared_with_itself(perfect: Evaluation) -> None:
    row = perfect.directions[0].row("true target")
    assert (row.kid, row.fid, row.pair_distance, row.retrieval_at_1) == (None, None, None, None)
    assert row.structure_distance is not None


def test_figures_do_not_depend_on_the_batch_size(
    net: FeatureNet, shapes: Tensor, other_shapes: Tensor, perfect: Evaluation
) -> None:
    again = judge(net, shapes, other_shapes, invert, batch_size=5)
    for direction, other in zip(perfect.directions, again.directions, strict=True):
        for row, same in zip(direction.rows, other.rows, strict=True):
            assert row.kid_rt.value == pytest.approx(same.kid_rt.value, rel=1e-3, abs=1e-2)
            assert row.retrieval_at_1 == same.retrieval_at_1


def test_unpaired_pictures_have_no_pair_columns(net: FeatureNet, shapes: Tensor, other_shapes: Tensor) -> None:
    found = evaluate(
        invert,
        blur,
        (shapes[:6], -other_shapes[:9]),
        DOMAINS,
        reference=(shapes, -shapes),
        judges=Judges.of(net),
        paired=False,
        force=True,
    )
    for direction in found.directions:
        assert all(row.pair_distance is row.retrieval_at_1 is None for row in direction.rows)
        assert [row.structure_distance is None for row in direction.rows] == [False, False, False, True, True]
    assert found.pictures == {"white": 6, "black": 9}


def test_the_translator_is_asked_for_the_other_domain(net: FeatureNet, shapes: Tensor) -> None:
    asked = []

    def translate(images: Tensor, target: str) -> Tensor:
        assert not torch.is_grad_enabled()
        asked.append((target, len(images), images.mean().item() > 0))
        return images

    judge(net, shapes[:6], shapes[:2], translate, batch_size=4)
    assert asked == [("black", 4, True), ("white", 4, False), ("black", 2, True), ("white", 2, False)]


def test_progress_counts_every_picture(net: FeatureNet, shapes: Tensor) -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate(
        invert,
        blur,
        (shapes[:5], -shapes[:5]),
        DOMAINS,
        reference=(shapes[:3], -shapes[:2]),
        judges=Judges.of(net),
        batch_size=4,
        force=True,
        progress=lambda *report: seen.append(report),
    )
    assert [(what, done) for what, done, _ in seen] == [
        ("white and black", 24),
        ("white and black", 30),
        ("training white", 33),
        ("training black", 35),
    ]
    assert {total for _, _, total in seen} == {35}


def test_json_round_trip(perfect: Evaluation) -> None:
    found = json.loads(json.dumps(perfect.to_dict()))
    row = found["directions"][0]["rows"][0]
    assert row["name"] == "translation"
    assert set(row["kid"]) == {"value", "low", "high"}
    assert row["fid"]["rank_deficient"] is True
    assert found["nets"]["features"]["name"] == "efficientnet_lite0"
    assert any("FID" in warning for warning in found["warnings"])


def test_tables_name_what_they_were_computed_with(perfect: Evaluation) -> None:
    page = io.StringIO()
    for table in evaluation_tables(perfect):
        Console(file=page, width=200).print(table)
    text = " ".join(page.getvalue().split())
    for part in (
        "white > black",
        "black > white",
        "KID-rt",
        "features by efficientnet_lite0 57934424 (64 px, bicubic, antialiased)",
        "24 of white, 24 of black at 32 x 32",
        "30 training pictures",
    ):
        assert part in text


def test_quick_figure_equals_the_full_one(
    net: FeatureNet, shapes: Tensor, other_shapes: Tensor, perfect: Evaluation
) -> None:
    reference = pooled_features(net, -other_shapes, blur)
    quick = quick_kid_rt(net, invert(shapes, "black"), reference)
    assert quick.value == pytest.approx(perfect.directions[0].row("translation").kid_rt.value, rel=1e-4)


def test_unequal_counts_are_no_pairs(net: FeatureNet, shapes: Tensor) -> None:
    with pytest.raises(DataError, match="4 and 3 pictures"):
        evaluate(
            copy, blur, (shapes[:4], shapes[:3]), DOMAINS, reference=(shapes, shapes), judges=Judges.of(net), force=True
        )


def test_too_few_pictures(net: FeatureNet, shapes: Tensor) -> None:
    def attempt(count: int, training: int, **options: Any) -> Evaluation:
        sets = shapes[:count], -shapes[:count]
        reference = shapes[:training], -shapes[:training]
        return evaluate(copy, blur, sets, DOMAINS, reference=reference, judges=Judges.of(net), **options)

    with pytest.raises(DataError, match="fewer than 2 pictures"):
        attempt(4, 1, force=True)
    with pytest.raises(DataError, match=r"4 pictures of white are too few for kid, .*expected 20 or more.*--force"):
        attempt(4, 24)
    with pytest.raises(DataError, match="4 pictures of training white are too few for kid"):
        attempt(24, 4, metrics=["kid_rt"])
    assert attempt(4, 1, metrics=["structure_distance", "copy_ratio"]).metrics == ("structure_distance", "copy_ratio")
    assert attempt(4, 4, force=True).directions[0].row("translation").kid is not None


def test_unknown_metric_offers_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"no metric named 'structur_distance'.*did you mean 'structure_distance'"
    ):
        choose_metrics(["kid", "structur_distance"])
    assert choose_metrics(["fid", "kid"]) == ("kid", "fid")
