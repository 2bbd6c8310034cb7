"""Our FlexVAR against numbers that the published implementation computed from the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.models.model import Model, build
from cyclevar.core.next_scale.generation import generate
from cyclevar.core.next_scale.pyramid import Pyramid, teacher_inputs, tokenize
from cyclevar.core.next_scale.translation import encode_context, translate_context
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.core.weights.name_table import strip_prefix
from cyclevar.plugins.flexvar.backbone import FlexVarBackbone

pytestmark = pytest.mark.golden
CLOSE = {"atol": 5e-4, "rtol": 1e-4}
SCHEDULES = {"": "patch_nums", "alt_": "alt"}
"""Prefix of the numbers -> which schedule of the configuration they are for; the weights are the same."""


def build_like(config: dict[str, Any]) -> Model:
    """The model that a golden's configuration, in the published words, describes."""
    vae, var = config["vae"], config.get("var")
    settings: dict[str, Any] = {
        "tokenizer": {
            "codebook_size": vae["codebook_size"],
            "channels": vae["codebook_embed_dim"],
            "z_channels": vae["z_channels"],
            "width": vae["ch"],
            "multipliers": vae["ch_mult"],
        },
        "backbone": {"depth": 1, "width": 32, "heads": 1, "classes": 2},
        "schedule": "-".join(map(str, config["patch_nums"])),
    }
    if var:
        settings["backbone"] = {
            "depth": var["depth"],
            "width": var["embed_dim"],
            "heads": var["num_heads"],
            "classes": var["num_classes"],
            "shared_adaln": var["shared_aln"],
            "qk_norm": var["attn_l2_norm"],
            "norm_eps": var["norm_eps"],
        }
    return build("flexvar", settings, initialize=False)


@pytest.fixture(scope="module")
def info(numbers: Callable[[str], Any]) -> dict[str, Any]:
    config: dict[str, Any] = numbers("flexvar_a")[0]["config"]
    return config


@pytest.fixture(scope="module")
def loaded(numbers: Callable[[str], Any], info: dict[str, Any]) -> tuple[Model, dict[str, Tensor]]:
    tensors = numbers("flexvar_a")[1]
    model = build_like(info)
    model.load_official(strip_prefix(tensors, "tokenizer."), strip_prefix(tensors, "backbone."))
    return model.eval(), tensors


def pyramid_of(model: Model, tensors: dict[str, Tensor]) -> Pyramid:
    """Of the golden's pictures; a schedule that ends elsewhere is given the latent at its own size."""
    with torch.no_grad():
        latent = model.tokenizer.encode(tensors["in.image"])
        assert_close(latent, tensors["out.enc_latent"], **CLOSE)
        quantize, size = model.tokenizer.quantizer.quantize, torch.nn.functional.interpolate
        parts = [quantize(size(latent, side, mode="area")) for side in model.schedule.sizes]
    return Pyramid(tuple(part.codes for part in parts), tuple(part.maps for part in parts), parts[-1].maps)


@torch.no_grad()
def test_tokenizer(loaded: tuple[Model, dict[str, Tensor]]) -> None:
    model, tensors = loaded
    latent = model.tokenizer.encode(tensors["in.image"])
    assert_close(model.tokenizer.encoder(tensors["in.image"]), tensors["out.enc_raw"], **CLOSE)
    pyramid = tokenize(model.tokenizer, latent, model.schedule)
    for k, (codes, part) in enumerate(zip(pyramid.codes, pyramid.maps, strict=True)):
        assert torch.equal(codes.flatten(1), tensors[f"out.idx_{k}"])
        assert_close(part, tensors[f"out.quant_{k}"], **CLOSE)
    assert_close(model.tokenizer.decode(pyramid.latent, clamp=False), tensors["out.recon"], **CLOSE)
    assert_close(model.tokenizer.decode(pyramid.maps[-2], clamp=False), tensors["out.recon_small"], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("prefix", SCHEDULES)
def test_teacher_forcing(loaded: tuple[Model, dict[str, Tensor]], info: dict[str, Any], prefix: str) -> None:
    model, tensors = loaded
    model = model.at(ScaleSchedule.square(*info[SCHEDULES[prefix]]))
    pyramid = pyramid_of(model, tensors)
    for k, codes in enumerate(pyramid.codes):
        assert torch.equal(codes.flatten(1), tensors[f"out.{prefix}idx_{k}"])
    inputs = teacher_inputs(model.tokenizer, pyramid.maps, model.schedule)
    packed = model.schedule.pack([part for part in inputs if part is not None], first=1)
    assert_close(packed, tensors[f"out.{prefix}var_input"], **CLOSE)
    logits = model.backbone(inputs, model.backbone.condition(tensors["in.labels"]), model.schedule)
    assert_close(logits, tensors[f"out.{prefix}logits_tf"], **CLOSE)
    codes = torch.cat([part.flatten(1) for part in pyramid.codes], dim=1)
    loss = model.tokenizer.quantizer.nll(logits, codes).mean()
    assert_close(loss, tensors[f"out.{prefix}loss_tf"].squeeze(), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize(("name", "which", "style"), [
    ("ar", "patch_nums", "var"), ("alt_ar", "alt", "var"), ("arllama", "patch_nums", "llamagen")
])  # fmt: skip
def test_greedy_sampling(
    loaded: tuple[Model, dict[str, Tensor]], info: dict[str, Any], name: str, which: str, style: str
) -> None:
    model, tensors = loaded
    schedule = ScaleSchedule.square(*info[which])
    condition = model.backbone.condition(tensors["in.labels"])
    generated = generate(
        model, condition, schedule=schedule, guidance=info["cfg"], style=style, full_from=info["max_pn"],
        temperature=1.0, top_k=1, top_p=0.0,
    )  # fmt: skip
    for k, codes in enumerate(generated.codes):
        assert torch.equal(codes.flatten(1), tensors[f"out.{name}_idx_{k}"])
    assert_close(generated.logits, tensors[f"out.{name}_cfg_logits"], **CLOSE)
    if name == "ar":
        assert_close(generated.image, tensors["out.ar_image"].clamp(-1, 1), **CLOSE)


@torch.no_grad()
def test_positions(loaded: tuple[Model, dict[str, Tensor]]) -> None:
    model, tensors = loaded
    assert isinstance(model.backbone, FlexVarBackbone)
    rows = torch.cat([model.backbone.rows(size) for size in model.schedule.sizes], dim=1)
    assert_close(rows, tensors["out.pos_rows"], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("start", ["replace", "add", "keep"])
def test_parallel(loaded: tuple[Model, dict[str, Tensor]], numbers: Callable[[str], Any], start: str) -> None:
    model, cycle = loaded[0], numbers("cyclevar_flexvar_a")[1]
    context = encode_context(model, cycle["in.image"])
    for k, part in enumerate(context):
        assert_close(part, cycle[f"out.F_{k}"], **CLOSE)
    config = TranslationConfig.model_validate({"start": start})
    out = translate_context(model, context, model.backbone.condition(cycle["in.labels"]), config, clamp=False)
    assert_close(out.logits, cycle[f"out.par_{start}_logits"], **CLOSE)
    assert_close(out.latent, cycle[f"out.par_{start}_E"], **CLOSE)
    expected = cycle[f"out.par_{start}_image"]
    inside = expected.abs() < 1  # whether these were clamped is not said
    assert_close(out.image[inside], expected[inside], **CLOSE)
    assert_close(out.image.clamp(-1, 1), expected.clamp(-1, 1), **CLOSE)


@torch.no_grad()
def test_tokenizer_at_width_64(numbers: Callable[[str], Any]) -> None:
    info, tensors = numbers("tok64_flexvar")
    model = build_like(info["config"])
    model.load_official(strip_prefix(tensors, "tokenizer."))
    latent = model.tokenizer.encode(tensors["in.image"])
    assert_close(latent, tensors["out.enc_latent"], **CLOSE)
    pyramid = tokenize(model.tokenizer, latent, model.schedule)
    for k, codes in enumerate(pyramid.codes):
        assert torch.equal(codes.flatten(1), tensors[f"out.idx_{k}"])
    assert_close(pyramid.latent, tensors["out.fhat"], **CLOSE)
    assert_close(model.tokenizer.decode(pyramid.latent, clamp=False), tensors["out.recon"], **CLOSE)


def test_export_inverts_import(loaded: tuple[Model, dict[str, Tensor]]) -> None:
    model, tensors = loaded
    exported = model.export_official()
    for part in ("tokenizer", "backbone"):
        published = strip_prefix(tensors, f"{part}.")
        assert exported[part].keys() == published.keys()
        for name, tensor in published.items():
            if name not in ("quantize.codebook_used", "attn_bias_for_masking"):
                assert torch.equal(exported[part][name], tensor), name
