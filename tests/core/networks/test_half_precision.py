"""What bfloat16 changes in a translation, on a CPU and on a GPU; and that a GPU computes what a CPU does."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from torch import Tensor

from cyclevar.core.data.batches import stack
from cyclevar.core.data.datasets import open_dataset
from cyclevar.core.inference.optimize import for_inference
from cyclevar.core.models.model import Model
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.weights.shipped import find_translator

SHIPPED = ("noto-fluent", "noto-fluent-infinity", "noto-fluent-flexvar")
Mode = Literal["parallel", "serial"]


@pytest.fixture(scope="module")
def emoji() -> Tensor:
    test = open_dataset().test
    assert test is not None
    return stack(test[0], 64, 1)


@pytest.fixture(scope="module", params=SHIPPED)
def translator(request: pytest.FixtureRequest) -> Translator:
    return Translator.load(find_translator(request.param))


def translate(translator: Translator, images: Tensor, mode: Mode, device: str, dtype: torch.dtype) -> Tensor:
    """The pictures as the model for inference makes them, float32 on the CPU."""
    assert isinstance(translator.model, Model)
    model = for_inference(copy.deepcopy(translator.model).to(device), dtype=dtype)
    settings = translator.config.model_copy(update={"mode": mode})
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
        context = model.encode(images.to(device, dtype))
        condition = model.condition([translator.targets[1]] * len(images))
        return model.translate(context, condition, settings).image.float().cpu()


@pytest.mark.parametrize(
    ("device", "mode"),
    [
        ("cpu", "parallel"),
        pytest.param("cuda", "parallel", marks=pytest.mark.cuda),
        pytest.param("cuda", "serial", marks=pytest.mark.cuda),
    ],
)
def test_bfloat16_comes_close(translator: Translator, emoji: Tensor, device: str, mode: Mode) -> None:
    exact = translate(translator, emoji, mode, "cpu", torch.float32)
    difference = (translate(translator, emoji, mode, device, torch.bfloat16) - exact).abs()
    assert 0 < difference.mean() < 0.02  # a translation differs from its source by 0.12 and more


@pytest.mark.cuda
@pytest.mark.parametrize("mode", ["parallel", "serial"])
def test_a_gpu_computes_what_a_cpu_does(
    translator: Translator, emoji: Tensor, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    exact = translate(translator, emoji, mode, "cpu", torch.float32)
    difference = (translate(translator, emoji, mode, "cuda", torch.float32) - exact).abs()
    assert difference.mean() < 1e-3
