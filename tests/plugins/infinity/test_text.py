"""Prompts: the text encoder that learns with the backbone, T5 and its cache, translators that carry encoded prompts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from cyclevar.core.errors import CheckpointError, ConfigError
from cyclevar.core.models.model import Model
from cyclevar.core.pipelines.translator import Translator
from cyclevar.plugins.infinity import text
from cyclevar.plugins.infinity.text import WordEncoder, t5_features

MakeModel = Callable[..., Model]
PROMPT = "driving in the night"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CYCLEVAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prompts"


@pytest.fixture
def t5_folder(tmp_path: Path) -> Path:
    """A tiny T5 with random weights, as it is saved from the hub; it knows a few words and ends texts with a mark."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<pad>", "</s>", "<unk>", "driving", "in", "the", "day", "night"]
    plain = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    plain.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder = tmp_path / "t5"
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    config = transformers.T5Config(vocab_size=8, d_model=24, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """T5 replaced by something that counts how often it is asked."""
    asked: list[str] = []

    def features(encoder: str, prompt: str, length: int) -> torch.Tensor:
        asked.append(prompt)
        return torch.randn(len(prompt.split()) + 1, 24, generator=torch.Generator().manual_seed(len(prompt)))

    monkeypatch.setattr(text, "_run_t5", features)
    return asked


def test_words_have_features_of_their_own_and_similar_ones_similar_features() -> None:
    encoder = WordEncoder(4096, 64)
    torch.nn.init.normal_(encoder.embedding)
    out = encoder("A horse, horses and a zebra", 8)
    assert out.shape == (6, 64)
    assert torch.equal(out[0], out[4])  # whatever the case
    likeness = torch.nn.functional.cosine_similarity(out[1:2], out)
    assert likeness[2] > 0.3 > likeness[5].abs()
    assert torch.equal(encoder("a horse", 8), encoder(" A  Horse ", 8))


def test_t5_is_asked_once_for_every_prompt(calls: list[str], empty_cache: Path) -> None:
    first = t5_features("some/t5", PROMPT, 8, 24)
    assert torch.equal(t5_features("some/t5", PROMPT, 8, 24), first)
    assert calls == [PROMPT]
    assert len(list(empty_cache.iterdir())) == 1
    t5_features("other/t5", PROMPT, 8, 24)
    t5_features("some/t5", "driving in the day", 8, 24)
    assert len(calls) == 3


def test_limits_hold_for_cached_prompts_too(calls: list[str]) -> None:
    t5_features("some/t5", PROMPT, 8, 24)
    with pytest.raises(ConfigError, match=r"'driving in the night' has 5 tokens; expected at most 4"):
        t5_features("some/t5", PROMPT, 4, 24)
    with pytest.raises(ConfigError, match=r"some/t5 makes features of width 24; expected 2048, .* text_channels"):
        t5_features("some/t5", PROMPT, 8, 2048)


def test_t5_itself(t5_folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    found = t5_features(str(t5_folder), PROMPT, 8, 24)
    assert found.shape == (5, 24)
    encoder = transformers.T5EncoderModel.from_pretrained(t5_folder).eval()
    padded = {
        "input_ids": torch.tensor([[3, 4, 5, 7, 1, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]]),
    }
    with torch.no_grad():
        expected = encoder(**padded).last_hidden_state[0, :5]
    assert_close(found, expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="has 7 tokens; expected at most 6"):
        t5_features(str(t5_folder), "driving in the day the night", 6, 24)
    with pytest.raises(ConfigError, match="the prompt is empty"):
        t5_features(str(t5_folder), " ", 6, 24)


@pytest.mark.parametrize("name", ["some/t5", "t5"])
def test_an_encoder_among_the_users_models(
    t5_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    models = tmp_path / "models"
    (models / name).parent.mkdir(parents=True)
    (models / name).symlink_to(t5_folder)
    monkeypatch.setenv("CYCLEVAR_MODELS", str(models))
    assert torch.equal(t5_features("some/t5", PROMPT, 8, 24), t5_features(str(t5_folder), PROMPT, 8, 24))


def test_an_encoder_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError) as caught:
        t5_features(str(tmp_path / "nothing"), PROMPT, 8, 24)
    for part in (
        "the text encoder",
        "nothing cannot be had",
        "config.json, tokenizer.json",
        "CYCLEVAR_MODELS=MODELS",
    ):
        assert part in str(caught.value)
    assert not list((tmp_path / "cache").glob("*/*"))


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(CheckpointError, match=r"needs the package transformers; .*pip install 'cyclevar\[text\]'"):
        t5_features("some/t5", PROMPT, 8, 24)


def test_a_saved_translator_needs_no_t5(
    make_model: MakeModel, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"text_encoder": "some/t5", "prompts": {}}
    model = make_model(backbone=settings)
    targets = ("driving day", PROMPT)
    translator = Translator(model, domains=("day", "night"), targets=targets)
    images = torch.rand(1, 3, *model.image_size) * 2 - 1
    expected = translator(images, "night")
    translator.save(tmp_path / "translator")

    def never(*_: object) -> None:
        pytest.fail("T5 is asked, or its cache")

    monkeypatch.setattr("cyclevar.plugins.infinity.backbone.t5_features", never)
    loaded = Translator.load(tmp_path / "translator")
    assert torch.equal(loaded(images, "night"), expected)
    assert not torch.equal(loaded(images, "day"), expected)
    assert loaded.model.config == model.config
    assert calls == list(targets)


def test_a_domain_of_a_t5_model(make_model: MakeModel, calls: list[str]) -> None:
    model = make_model(backbone={"text_encoder": "some/t5", "prompts": {}})
    model.backbone.add_domain("night", PROMPT)
    model.backbone.remember(["night", PROMPT])
    assert model.backbone.names == ("night",)
    assert calls == [PROMPT]
    assert model.backbone.get_buffer("prompt_features").shape == (5, 24)
    assert_close(model.backbone.condition(["night"]).vector, model.backbone.condition([PROMPT]).vector)


def test_the_cache_follows_the_users_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    monkeypatch.delenv("CYCLEVAR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    t5_features("some/t5", PROMPT, 8, 24)
    assert len(list((tmp_path / "xdg" / "cyclevar" / "prompts").iterdir())) == 1
    assert os.environ.get("CYCLEVAR_CACHE") is None
