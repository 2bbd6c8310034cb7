"""Measures what a full-size Infinity needs in memory, with random weights in a file of the published form.

    python tools/measure_infinity_memory.py write FILE [--dtype float32]      2B weights; 4.4 GB in bfloat16
    python tools/measure_infinity_memory.py load FILE                         peak memory over the size of the file
    python tools/measure_infinity_memory.py translate FILE                    one picture of 512 px, in bfloat16

Each prints one line of JSON. The tokenizer of ``translate`` is the published size of 32 bits with random weights, in
float32, and random features stand for an encoded prompt: neither the time nor the memory depends on values.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from cyclevar.core.models.model import Model, build
from cyclevar.core.pipelines.translator import Translator

PROMPT, TOKENS = "driving in the night", 6


def write(file: Path, preset: str, dtype: torch.dtype) -> None:
    """Random weights, each with the name and shape of the published one."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in empty(preset, dtype).export_official()["backbone"].items()}
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        state[name] = torch.empty(shape, dtype=dtype).normal_(std=0.02, generator=generator)
    torch.save(state, file)


def empty(preset: str, dtype: torch.dtype) -> Model:
    """The model without memory, for pictures of 512 px, its backbone of type ``dtype``."""
    model = build("infinity", preset, initialize=False, schedule="0.25M@1.0")
    model.backbone.to(dtype)
    return model


def loaded(file: Path, preset: str, dtype: torch.dtype) -> Model:
    """The model with the backbone in ``file``, whose weights were all touched."""
    model = empty(preset, dtype).load_official(backbone=file)
    assert all(bool(parameter.sum().isfinite()) for parameter in model.backbone.parameters())
    return model


def peak() -> int:
    """Most memory that this process ever had resident, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def translate(model: Model) -> dict[str, float]:
    """One picture of 512 px to a stored prompt; seconds for it, and the size of the picture."""
    tokenizer = build("infinity", "2b", schedule="0.25M@1.0", backbone={"depth": 1, "chunks": 1}).tokenizer
    model = Model(model.family, model.config, tokenizer, model.backbone, model.schedule)
    backbone = model.backbone
    backbone.register_buffer("prompt_features", torch.randn(TOKENS, 2048))
    backbone.config = backbone.config.model_copy(update={"encoded_prompts": {PROMPT: TOKENS}})
    translator = Translator(model, domains=["night"], targets=[PROMPT])
    begun = time.perf_counter()
    image = translator(torch.rand(1, 3, *model.image_size) * 2 - 1, "night")
    assert bool(image.isfinite().all())
    return {"seconds": round(time.perf_counter() - begun, 1), "side": image.shape[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["write", "load", "translate"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--preset", default="2b")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="of file and model")
    chosen = parser.parse_args()
    dtype: torch.dtype = getattr(torch, chosen.dtype)
    facts: dict[str, float] = {}
    begun = time.perf_counter()
    if chosen.what == "write":
        write(chosen.file, chosen.preset, dtype)
    else:
        model = loaded(chosen.file, chosen.preset, dtype)
        facts["loaded_in_seconds"] = round(time.perf_counter() - begun, 1)
        if chosen.what == "translate":
            facts |= translate(model)
    size = chosen.file.stat().st_size
    facts |= {"file_gb": round(size / 1e9, 2), "peak_gb": round(peak() / 1e9, 2), "ratio": round(peak() / size, 3)}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
