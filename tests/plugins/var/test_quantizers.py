"""VAR with another quantizer than its own: whatever is registered fits in by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.errors import ConfigError, UnknownNameError
from cyclevar.core.models.model import Model, build, load_model
from cyclevar.core.next_scale.generation import generate
from cyclevar.core.next_scale.translation import translate
from cyclevar.quantizers.bitwise import BitwiseQuantizer
from cyclevar.quantizers.index import IndexQuantizer

SMALL: dict[str, Any] = {"backbone": {"depth": 1, "width": 64, "heads": 2}, "schedule": "1-2-4"}


def small(**tokenizer: Any) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build("var", "tiny", tokenizer=tokenizer, **SMALL).eval()


def test_bits_in_the_place_of_a_code_book(tmp_path: Path) -> None:
    model = small(quantizer="bitwise", quantizer_settings={"kind": "lfq"})
    assert isinstance(model.tokenizer.quantizer, BitwiseQuantizer)
    assert model.tokenizer.quantizer.kind == "lfq"
    assert model.backbone.logit_dim == 2 * model.tokenizer.channels
    condition = model.backbone.condition(["noto"])
    with torch.no_grad():
        drawn = generate(model, condition)
        images = torch.zeros(1, 3, *model.image_size)
        made = translate(model, images, condition, TranslationConfig())
    assert drawn.codes[-1].shape == (1, 4, 4, model.tokenizer.channels)
    assert bool(made.image.isfinite().all())
    model.save(tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(generate(loaded, loaded.backbone.condition(["noto"])).image, drawn.image)


def test_nothing_published_fits_then() -> None:
    assert small().official is not None
    with pytest.raises(ConfigError, match="has no published files"):
        small(quantizer="bitwise").export_official()


def test_the_code_book_has_settings_too() -> None:
    quantizer = small(codebook_size=32, quantizer_settings={"metric": "cosine"}).tokenizer.quantizer
    assert isinstance(quantizer, IndexQuantizer)
    assert (quantizer.size, quantizer.metric) == (32, "cosine")


def test_an_unknown_one_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'bitwise'"):
        small(quantizer="bitwis")
