"""Our Infinity against numbers that the published implementation computed from the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.interfaces.backbone import Condition
from cyclevar.core.interfaces.callbacks import ForcedCodes, ScaleStep
from cyclevar.core.models.model import Model, build
from cyclevar.core.next_scale.generation import generate
from cyclevar.core.next_scale.pyramid import Pyramid, teacher_inputs, tokenize
from cyclevar.core.next_scale.translation import encode_context, translate, translate_context
from cyclevar.core.weights.name_table import strip_prefix
from cyclevar.plugins.infinity.backbone import InfinityBackbone
from cyclevar.plugins.infinity.schedules import NAMED

pytestmark = pytest.mark.golden
CLOSE = {"atol": 5e-4, "rtol": 1e-4}
PROMPTS = ("the first text", "the second text")
Loaded = tuple[Model, dict[str, Tensor], dict[str, Any]]


def build_like(config: dict[str, Any], schedule: str) -> Model:
    """The model that a golden's configuration, in the published words, describes; its prompts are stored."""
    vae, inf = config["vae"], config.get("inf")
    settings: dict[str, Any] = {
        "tokenizer": {
            "bits": vae["codebook_dim"],
            "width": vae["ch"],
            "multipliers": vae["ch_mult"],
            "patch": vae["patch_size"],
        },
        "backbone": {"depth": 1, "width": 32, "heads": 1, "chunks": 1},
        "schedule": schedule,
    }
    if inf:
        settings["backbone"] = {
            "depth": inf["depth"],
            "width": inf["embed_dim"],
            "heads": inf["num_heads"],
            "chunks": inf["block_chunks"],
            "text_channels": inf["text_channels"],
            "text_length": inf["text_maxlen"],
            "spatial_patchify": bool(config["spatial_patchify"]),
            "encoded_prompts": dict(zip(PROMPTS, config["lens"], strict=True)),
        }
    return build("infinity", settings, initialize=False)


@pytest.fixture(scope="module")
def loaded(numbers: Callable[[str], Any]) -> Loaded:
    info, tensors = numbers("infinity_a")
    model = build_like(info["config"], "0.06M@1.0")
    model.load_official(strip_prefix(tensors, "tokenizer."), strip_prefix(tensors, "backbone."))
    assert isinstance(model.backbone, InfinityBackbone)
    model.backbone.prompt_features = tensors["in.text_feats"]
    return model.eval(), tensors, info["config"]


@pytest.fixture(scope="module")
def condition(loaded: Loaded) -> Condition:
    with torch.no_grad():
        return loaded[0].backbone.condition(PROMPTS)


@pytest.fixture(scope="module")
def pyramid(loaded: Loaded) -> Pyramid:
    model, tensors, _ = loaded
    with torch.no_grad():
        latent = model.tokenizer.encode(tensors["in.image"])
    assert_close(latent, tensors["out.enc_latent"], **CLOSE)
    return tokenize(model.tokenizer, latent, model.schedule)


@pytest.fixture(scope="module")
def inputs(loaded: Loaded, pyramid: Pyramid) -> list[Tensor | None]:
    return teacher_inputs(loaded[0].tokenizer, pyramid.maps, loaded[0].schedule)


@pytest.fixture(scope="module")
def cycle(numbers: Callable[[str], Any]) -> dict[str, Tensor]:
    return numbers("cyclevar_infinity_a")[1]


@pytest.fixture(scope="module")
def context(loaded: Loaded, cycle: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        context = encode_context(loaded[0], cycle["in.image"])
    for k, part in enumerate(context):
        assert_close(part, cycle[f"out.F_{k}"], **CLOSE)
    return context


@torch.no_grad()
def test_tokenizer(loaded: Loaded, pyramid: Pyramid, inputs: list[Tensor | None]) -> None:
    model, tensors, _ = loaded
    tokenizer, schedule = model.tokenizer, model.schedule
    state = tokenizer.begin(2, schedule)
    for k, (codes, part) in enumerate(zip(pyramid.codes, pyramid.maps, strict=True)):
        assert torch.equal(codes.int(), tensors[f"out.vae_bits_{k}"])
        assert torch.equal(codes.flatten(1, 2).int(), tensors[f"out.idx_{k}"])
        state = tokenizer.absorb(state, part)
        assert_close(tokenizer.latent(state), tensors[f"out.fhat_{k}"], **CLOSE)
    assert_close(pyramid.latent, tensors["out.vae_z"], **CLOSE)
    assert_close(tokenizer.decode(pyramid.latent), tensors["out.recon"], **CLOSE)
    packed = schedule.pack([part for part in inputs if part is not None], first=1)
    assert_close(packed, tensors["out.var_input"], **CLOSE)


def test_text(loaded: Loaded, condition: Condition) -> None:
    _, tensors, config = loaded
    assert condition.tokens is not None
    assert_close(condition.vector, tensors["out.cond_BD"], **CLOSE)
    assert condition.lengths is not None
    assert condition.lengths.tolist() == config["lens"]
    real = torch.cat([row[:length] for row, length in zip(condition.tokens, config["lens"], strict=True)])
    assert_close(real, tensors["out.text_kv"], **CLOSE)


@torch.no_grad()
def test_teacher_forcing(loaded: Loaded, pyramid: Pyramid, inputs: list[Tensor | None], condition: Condition) -> None:
    model, tensors, _ = loaded
    logits = model.backbone(inputs, condition, model.schedule)
    assert_close(logits, tensors["out.logits_tf"], **CLOSE)
    quantizer = model.tokenizer.quantizer
    codes = torch.cat([part.flatten(1, 2) for part in pyramid.codes], dim=1)
    loss = quantizer.nll(logits, codes).mean() / quantizer.channels
    assert_close(loss, tensors["out.loss_tf"].squeeze(), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize(("rotary", "name"), [("index", "rope0"), ("stretched", "rope1")])
def test_other_positions(
    loaded: Loaded,
    inputs: list[Tensor | None],
    condition: Condition,
    rotary: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, tensors, _ = loaded
    changed = model.backbone.config.model_copy(update={"rotary": rotary})
    monkeypatch.setattr(model.backbone, "config", changed)
    assert_close(model.backbone(inputs, condition, model.schedule), tensors[f"out.logits_tf_{name}"], **CLOSE)


@torch.no_grad()
def test_the_published_half_precision_is_near(
    loaded: Loaded, inputs: list[Tensor | None], condition: Condition
) -> None:
    """The published kernel rounds attention to the text to bfloat16; ours has the precision of everything else."""
    model, tensors, _ = loaded
    logits = model.backbone(inputs, condition, model.schedule)
    half = tensors["out.logits_tf_bf16ca"]
    assert_close(logits, half, atol=0.04, rtol=0)
    assert float((logits - half).norm() / half.norm()) < 4e-3


@pytest.mark.parametrize("inside", [False, True], ids=["ar", "arins"])
def test_guided_sampling(loaded: Loaded, condition: Condition, inside: bool) -> None:
    model, tensors, config = loaded
    name = "arins" if inside else "ar"
    drawn: list[Tensor] = []

    def known(step: ScaleStep, codes: Tensor) -> Tensor:
        """With guidance inside, the first four scales go on with the bits of a picture."""
        drawn.append(codes)
        return tensors[f"out.vae_bits_{step.scale}"].bool() if inside and step.scale < 4 else codes

    generated = generate(
        model,
        condition,
        guidance=config["cfg_list"],
        temperature=config["tau_list"],
        guidance_layers=[config["ins"]] if inside else [0],
        top_k=1,
        callbacks=[ForcedCodes(known)],
    )
    assert_close(generated.logits, tensors[f"out.{name}_logits"], **CLOSE)
    for k, codes in enumerate(drawn):
        assert torch.equal(codes.flatten(1, 2).long(), tensors[f"out.{name}_bits_{k}"])
    published = ((generated.image + 1) / 2 * 255).permute(0, 2, 3, 1).to(torch.uint8).flip(3)
    different = (published.int() - tensors[f"out.{name}_image_u8_bgr_hwc"].int()).abs()
    assert int(different.max()) <= 1
    assert int((different > 0).sum()) <= 40
    if not inside:
        assert_close(generated.image, tensors["out.ar_image"], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("start", ["replace", "add", "keep"])
def test_parallel(
    loaded: Loaded, cycle: dict[str, Tensor], context: list[Tensor], condition: Condition, start: str
) -> None:
    config = TranslationConfig.model_validate({"start": start})
    out = translate_context(loaded[0], context, condition, config)
    assert_close(out.logits, cycle[f"out.par_{start}_logits"], **CLOSE)
    assert_close(out.latent, cycle[f"out.par_{start}_E"], **CLOSE)
    assert_close(out.image, cycle[f"out.par_{start}_image"], **CLOSE)
    if start == "replace":
        for k, part in enumerate(out.maps):
            assert_close(part, cycle[f"out.par_replace_R_{k}"], **CLOSE)


@torch.no_grad()
def test_translating_is_the_same_from_the_pictures_on(
    loaded: Loaded, cycle: dict[str, Tensor], condition: Condition
) -> None:
    out = translate(loaded[0], cycle["in.image"], condition, TranslationConfig())
    assert_close(out.image, cycle["out.par_replace_image"], **CLOSE)


@torch.no_grad()
def test_tokenizer_at_width_64(numbers: Callable[[str], Any]) -> None:
    info, tensors = numbers("tok64_infinity")
    model = build_like(info["config"], "-".join(map(str, info["config"]["patch_nums"])))
    model.load_official(strip_prefix(tensors, "tokenizer."))
    latent = model.tokenizer.encode(tensors["in.image"])
    assert_close(latent, tensors["out.enc_latent"], **CLOSE)
    pyramid = tokenize(model.tokenizer, latent, model.schedule)
    for k, codes in enumerate(pyramid.codes):
        assert torch.equal(codes.flatten(1, 2).long(), tensors[f"out.idx_{k}"].long())
    assert_close(pyramid.latent, tensors["out.fhat"], **CLOSE)
    assert_close(model.tokenizer.decode(pyramid.latent), tensors["out.recon"], **CLOSE)


def test_export_inverts_import(loaded: Loaded) -> None:
    model, tensors, _ = loaded
    exported = model.export_official()
    for part in ("tokenizer", "backbone"):
        published = strip_prefix(tensors, f"{part}.")
        assert exported[part].keys() == published.keys()
        assert all(torch.equal(exported[part][name], tensor) for name, tensor in published.items())


def test_published_schedules(golden: Path) -> None:
    path = golden.parent / "specs" / "infinity_schedules.json"
    if not path.is_file():
        pytest.skip("no published schedules beside the golden numbers")
    table = json.loads(path.read_text())
    expected = {
        f"{budget}@{float(ratio)}": [tuple(size) for size in entry["hw"]]
        for ratio, budgets in table.items()
        for budget, entry in budgets.items()
    }
    model = build("infinity", "2b", initialize=False)
    assert {name: list(model.config.parse_schedule(name).sizes) for name in NAMED} == expected
