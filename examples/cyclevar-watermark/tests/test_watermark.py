"""The watermark is found in pictures that were written as 8-bit pixels, and in no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cyclevar_watermark.config import WatermarkConfig
from cyclevar_watermark.detect import detect, read_codes
from cyclevar_watermark.lists import green_codes, green_logits
from torch import Tensor

from cyclevar.cli.main import main
from cyclevar.core.data.transforms import to_picture, to_tensor
from cyclevar.core.models.catalog import open_model
from cyclevar.core.models.model import Model
from cyclevar.core.next_scale.generation import generate

SECRET = WatermarkConfig(key="secret", strength=4.0)
PICTURES = 8


@pytest.fixture(scope="module", params=["infinity", pytest.param("var", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest) -> Model:
    return open_model(request.param, "tiny").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def draw(model: Model) -> Callable[[WatermarkConfig | None], Tensor]:
    """Pictures as they come out of a file."""
    condition = model.backbone.condition(["noto", "fluent"] * (PICTURES // 2))

    def draw(config: WatermarkConfig | None) -> Tensor:
        extensions = {"callbacks": {"watermark": config.model_dump()}} if config else {}
        images = generate(model, condition, seed=1, extensions=extensions).image
        return torch.stack([to_tensor(to_picture(image), model.image_size) for image in images])

    return draw


@pytest.fixture(scope="module")
def plain(draw: Callable[[WatermarkConfig | None], Tensor]) -> Tensor:
    return draw(None)


@pytest.fixture(scope="module")
def marked(draw: Callable[[WatermarkConfig | None], Tensor]) -> Tensor:
    return draw(SECRET)


def test_half_of_the_codes_are_green_and_the_two_views_agree(model: Model) -> None:
    quantizer = model.tokenizer.quantizer
    green = green_logits("secret", 2, 9, quantizer)
    assert green.shape == (9, quantizer.logit_dim)
    assert abs(float(green.double().mean()) - 0.5) < 0.05
    codes = quantizer.harden(green.float()[None]).codes  # the likeliest codes are green ones
    assert bool(green_codes("secret", 2, codes.unflatten(1, (3, 3)), quantizer).all())
    assert not torch.equal(green, green_logits("another", 2, 9, quantizer))
    assert not torch.equal(green, green_logits("secret", 3, 9, quantizer))


def test_it_is_found_in_marked_pictures_alone(model: Model, plain: Tensor, marked: Tensor) -> None:
    _, together = detect(model, marked, SECRET)
    assert together.marked
    assert together.green > 0.53
    for images, key in ((plain, "secret"), (marked, "another"), (marked, "Secret")):
        each, all_of_them = detect(model, images, WatermarkConfig(key=key))
        assert abs(all_of_them.z) < 4
        assert not any(found.marked for found in each)


def test_it_leaves_the_coarse_scales_alone(model: Model, plain: Tensor, marked: Tensor) -> None:
    noise = float((marked - plain).square().mean() / 4)
    assert 0 < noise < 10**-2.3


def test_without_strength_it_changes_nothing(model: Model) -> None:
    condition = model.backbone.condition(["noto"])
    weak = {"callbacks": {"watermark": {"key": "secret", "strength": 0}}}
    assert torch.equal(generate(model, condition).image, generate(model, condition, extensions=weak).image)


def test_naive_scores_deceive_where_pictures_share_codes(model: Model) -> None:
    """One picture many times is no more evidence than once; a score that takes codes for independent thinks so."""
    white = torch.ones(4 * PICTURES, 3, *model.image_size)
    found = [detect(model, white, WatermarkConfig(key=f"{number}"))[1] for number in range(4)]
    naive, calibrated = (torch.tensor([getattr(one, name) for one in found]) for name in ("naive", "z"))
    assert float(naive.abs().max()) > 4
    assert float(calibrated.abs().max()) < 3
    assert float(naive.std()) > 2 * float(calibrated.std())


def test_the_command(
    model: Model, plain: Tensor, marked: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(images: Tensor) -> str:
        files = [tmp_path / f"{number}.png" for number in range(len(images))]
        for image, file in zip(images, files, strict=True):
            to_picture(image).save(file)
        arguments = ["watermark", "detect", *map(str, files), "--key", "secret", "--backbone", model.family]
        assert main(arguments) == 0
        return capsys.readouterr().out

    assert f"all {PICTURES} together: marked (z " in run(marked)
    assert f"all {PICTURES} together: not marked (z " in run(plain)
    to_picture(plain[0]).resize((30, 30)).save(tmp_path / "small.png")
    assert main(["watermark", "detect", str(tmp_path / "small.png"), "--key", "secret", "--backbone", "var"]) == 2
    assert "cannot make a picture of 30x30 pixels" in capsys.readouterr().err


def test_a_scale_more_can_be_marked(model: Model, plain: Tensor) -> None:
    codes = read_codes(model, plain[:1], 2)
    assert list(codes) == [len(model.schedule) - 2, len(model.schedule) - 1]
