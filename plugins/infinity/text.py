"""Prompts to features: a small encoder that learns with the backbone, and T5 with a cache on the disk.

T5 runs once for every prompt; its features are kept in ``$CYCLEVAR_CACHE/prompts`` (``~/.cache/cyclevar/prompts``), and
with the model (`InfinityBackbone.remember`).
"""

from __future__ import annotations

import hashlib
import importlib
import zlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclevar.core.errors import CheckpointError, ConfigError, brief
from cyclevar.core.weights.checkpoints import load_tensors, save_tensors
from cyclevar.core.weights.hub import FOLDERS, own_cache, own_folders


class WordEncoder(nn.Module):
    """A feature for each word: the mean of learned rows for the word and its letter triples, found by hashing.

    Knows no language but tells prompts apart from the first, and similar words get similar features.
    """

    def __init__(self, buckets: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(buckets, channels))

    def forward(self, prompt: str, length: int) -> Tensor:
        """Features ``[T,channels]`` of the T words of ``prompt``, at least 1 and at most ``length``."""
        words = prompt.casefold().split()
        _check_length(prompt, len(words), length)
        rows = [torch.tensor(self._rows(word), device=self.embedding.device) for word in words]
        return torch.stack([F.embedding(row, self.embedding).mean(0) for row in rows])

    def _rows(self, word: str) -> list[int]:
        marked = f"<{word}>"
        parts = [marked, *(marked[i : i + 3] for i in range(len(marked) - 2))]
        return [zlib.crc32(part.encode()) % len(self.embedding) for part in parts]


def t5_features(encoder: str, prompt: str, length: int, channels: int) -> Tensor:
    """T5's features of a prompt, float32 ``[T,channels]`` on the CPU, from the cache or else from T5 itself.

    ``encoder``: its folder or name in the Hugging Face hub. Raises `ConfigError` for an empty prompt, one of more than
    ``length`` tokens, or an encoder of another width; `CheckpointError` where the encoder cannot be had.
    """
    file = _cache_file(encoder, prompt)
    if file.is_file():
        features = load_tensors(file)[0]["features"]
    else:
        features = _run_t5(encoder, prompt, length)
        save_tensors(file, {"features": features}, {"encoder": encoder, "prompt": prompt})
    _check_length(prompt, len(features), length)
    if features.shape[1] != channels:
        raise ConfigError(
            f"{encoder} makes features of width {features.shape[1]}",
            expected=f"{channels}, the model's text_channels",
            hint="set backbone.text_encoder to the one that the model was trained with",
        )
    return features


def _check_length(prompt: str, tokens: int, length: int) -> None:
    if not prompt.strip():
        raise ConfigError("the prompt is empty", expected="some words")
    if tokens > length:
        raise ConfigError(f"the prompt {brief(prompt)!r} has {tokens} tokens", expected=f"at most {length}")


def _cache_file(encoder: str, prompt: str) -> Path:
    name = hashlib.sha256(f"{encoder}\n{prompt}".encode()).hexdigest()[:32]
    return own_cache() / "prompts" / f"{name}.safetensors"


@torch.no_grad()
def _run_t5(encoder: str, prompt: str, length: int) -> Tensor:
    """The last hidden state of the prompt's tokens, the end mark included; T5 is in memory for this call only."""
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise CheckpointError(
            f"encoding {prompt!r} with {encoder} needs the package transformers",
            expected="it, or a translator or a cache that holds the encoded prompt",
            hint="pip install 'cyclevar[text]'",
        ) from error
    place = _place(encoder)
    try:
        tokens = transformers.AutoTokenizer.from_pretrained(place)(prompt, return_tensors="pt")
        _check_length(prompt, tokens.input_ids.shape[1], length)
        t5 = transformers.T5EncoderModel.from_pretrained(place, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"the text encoder {encoder} cannot be had ({reason})",
            expected="a folder with config.json, tokenizer.json and model.safetensors, or a name in the hub",
            hint=f"where there is a network: hf download {encoder} --local-dir MODELS/{Path(encoder).name}; "
            f"then set the environment variable {FOLDERS}=MODELS",
        ) from error
    features: Tensor = t5(**tokens).last_hidden_state[0]
    return features


def _place(encoder: str) -> str:
    """The encoder in a folder that ``CYCLEVAR_MODELS`` names, with or without its owner's name; else as it is given."""
    places = [folder / name for folder in own_folders() for name in (encoder, Path(encoder).name)]
    return str(next((place for place in places if place.is_dir()), encoder))
