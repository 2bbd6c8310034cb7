"""Our VAR against numbers that the published implementation computed from the same weights."""

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
from cyclevar.core.models.model import Model, build
from cyclevar.core.next_scale.generation import generate
from cyclevar.core.next_scale.pyramid import Pyramid, teacher_inputs, tokenize
from cyclevar.core.next_scale.translation import encode_context, translate, translate_context
from cyclevar.core.weights.name_table import strip_prefix
from cyclevar.plugins.var.tokenizer import phi_index
from cyclevar.quantizers.sampling import filter_logits

pytestmark = pytest.mark.golden
CLOSE = {"atol": 5e-4, "rtol": 1e-4}


def build_like(config: dict[str, Any]) -> Model:
    """The model that a golden's configuration, in the published words, describes."""
    vae, var = config["vae"], config.get("var")
    settings: dict[str, Any] = {
        "tokenizer": {
            "codebook_size": vae["vocab_size"],
            "channels": vae["z_channels"],
            "width": vae["ch"],
            "multipliers": vae["ch_mult"],
            "phi_count": vae["share_quant_resi"],
            "phi_ratio": vae["quant_resi"],
        },
        "backbone": {"depth": 1, "width": 32, "heads": 1, "classes": 2},
        "schedule": "-".join(map(str, config["patch_nums"])),
    }
    if var:
        settings["backbone"] = {
            "depth": var["depth"],
            "width": var["embed_dim"],
            "heads": var["num_heads"],
            "mlp_ratio": var["mlp_ratio"],
            "classes": var["num_classes"],
            "shared_adaln": var["shared_aln"],
            "qk_norm": var["attn_l2_norm"],
            "norm_eps": var["norm_eps"],
        }
    return build("var", settings, initialize=False)


@pytest.fixture(scope="module")
def loaded(numbers: Callable[[str], Any]) -> tuple[Model, dict[str, Tensor]]:
    info, tensors = numbers("var_a")
    model = build_like(info["config"])
    model.load_official(strip_prefix(tensors, "tokenizer."), strip_prefix(tensors, "backbone."))
    return model.eval(), tensors


@pytest.fixture(scope="module")
def pyramid(loaded: tuple[Model, dict[str, Tensor]]) -> Pyramid:
    model, tensors = loaded
    with torch.no_grad():
        latent = model.tokenizer.encode(tensors["in.image"])
    assert_close(latent, tensors["out.enc_latent"], **CLOSE)
    return tokenize(model.tokenizer, latent, model.schedule)


@pytest.fixture(scope="module")
def context(loaded: tuple[Model, dict[str, Tensor]], cycle: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        context = encode_context(loaded[0], cycle["in.image"])
    for k, part in enumerate(context):
        assert_close(part, cycle[f"out.F_{k}"], **CLOSE)
    return context


@pytest.fixture(scope="module")
def cycle(numbers: Callable[[str], Any]) -> dict[str, Tensor]:
    return numbers("cyclevar_var_a")[1]


def test_tokenizer(loaded: tuple[Model, dict[str, Tensor]], pyramid: Pyramid) -> None:
    model, tensors = loaded
    tokenizer, schedule = model.tokenizer, model.schedule
    with torch.no_grad():
        state = tokenizer.begin(len(pyramid.latent), schedule)
        for k, (codes, part) in enumerate(zip(pyramid.codes, pyramid.maps, strict=True)):
            assert torch.equal(codes.flatten(1), tensors[f"out.idx_{k}"])
            state = tokenizer.absorb(state, part)
            assert_close(tokenizer.latent(state), tensors[f"out.fhat_{k}"], **CLOSE)
        assert_close(tokenizer.decode(pyramid.latent), tensors["out.recon"], **CLOSE)
        inputs = teacher_inputs(tokenizer, pyramid.maps, schedule)
        packed = schedule.pack([part for part in inputs if part is not None], first=1)
        assert_close(packed, tensors["out.var_input"], **CLOSE)


def test_teacher_forcing(loaded: tuple[Model, dict[str, Tensor]], pyramid: Pyramid) -> None:
    model, tensors = loaded
    with torch.no_grad():
        inputs = teacher_inputs(model.tokenizer, pyramid.maps, model.schedule)
        logits = model.backbone(inputs, model.backbone.condition(tensors["in.labels"]), model.schedule)
        assert_close(logits, tensors["out.logits_tf"], **CLOSE)
        codes = torch.cat([part.flatten(1) for part in pyramid.codes], dim=1)
        loss = model.tokenizer.quantizer.nll(logits, codes).mean()
        assert_close(loss, tensors["out.loss_tf"].squeeze(), **CLOSE)


def test_greedy_sampling(loaded: tuple[Model, dict[str, Tensor]], numbers: Callable[[str], Any]) -> None:
    model, tensors = loaded
    guidance = numbers("var_a")[0]["config"]["cfg"]
    with torch.no_grad():
        generated = generate(model, model.backbone.condition(tensors["in.labels"]), guidance=guidance, top_k=1)
    for k, codes in enumerate(generated.codes):
        assert torch.equal(codes.flatten(1), tensors[f"out.ar_idx_{k}"])
    assert_close(generated.logits, tensors["out.ar_cfg_logits"], **CLOSE)
    assert_close((generated.image + 1) / 2, tensors["out.ar_image01"], **CLOSE)


@pytest.mark.parametrize(("name", "top_k", "top_p"), [("k5", 5, 0.0), ("p80", 0, 0.8), ("k9_p60", 9, 0.6)])
def test_filters(loaded: tuple[Model, dict[str, Tensor]], name: str, top_k: int, top_p: float) -> None:
    tensors = loaded[1]
    assert_close(filter_logits(tensors["out.samp_logits"], top_k, top_p), tensors[f"out.samp_masked_{name}"])


@pytest.mark.parametrize("start", ["replace", "add", "keep"])
def test_parallel(
    loaded: tuple[Model, dict[str, Tensor]], cycle: dict[str, Tensor], context: list[Tensor], start: str
) -> None:
    model, _ = loaded
    config = TranslationConfig.model_validate({"start": start})
    with torch.no_grad():
        out = translate_context(model, context, model.backbone.condition(cycle["in.labels"]), config)
    assert_close(out.logits, cycle[f"out.par_{start}_logits"], **CLOSE)
    assert_close(out.latent, cycle[f"out.par_{start}_E"], **CLOSE)
    assert_close(out.image, cycle[f"out.par_{start}_image"], **CLOSE)
    if start == "replace":
        for k, part in enumerate(out.maps):
            assert_close(part, cycle[f"out.par_replace_R_{k}"], **CLOSE)


@pytest.mark.parametrize("serial", ["native", "literal"])
def test_serial(
    loaded: tuple[Model, dict[str, Tensor]], cycle: dict[str, Tensor], context: list[Tensor], serial: str
) -> None:
    model, _ = loaded
    config = TranslationConfig.model_validate({"mode": "serial", "serial": serial})
    with torch.no_grad():
        out = translate_context(model, context, model.backbone.condition(cycle["in.labels"]), config)
    assert_close(out.latent, cycle[f"out.ser_{serial}_E"], **CLOSE)
    assert_close(out.image, cycle[f"out.ser_{serial}_image"], **CLOSE)


def test_gradient_reaches_the_source(loaded: tuple[Model, dict[str, Tensor]], cycle: dict[str, Tensor]) -> None:
    model, _ = loaded
    images = cycle["in.image"].clone().requires_grad_()
    condition = model.backbone.condition(cycle["in.labels"])
    out = translate(model, images, condition, TranslationConfig())
    (gradient,) = torch.autograd.grad((out.image * cycle["in.grad_probe"]).sum(), images)
    assert_close(gradient, cycle["out.grad_image"], atol=2e-2, rtol=1e-4)


def test_tokenizer_at_width_64(numbers: Callable[[str], Any]) -> None:
    info, tensors = numbers("tok64_var")
    model = build_like(info["config"])
    model.load_official(strip_prefix(tensors, "tokenizer."))
    with torch.no_grad():
        latent = model.tokenizer.encode(tensors["in.image"])
        assert_close(latent, tensors["out.enc_latent"], **CLOSE)
        pyramid = tokenize(model.tokenizer, latent, model.schedule)
        for k, codes in enumerate(pyramid.codes):
            assert torch.equal(codes.flatten(1), tensors[f"out.idx_{k}"])
        assert_close(pyramid.latent, tensors["out.fhat"], **CLOSE)
        assert_close(model.tokenizer.decode(pyramid.latent), tensors["out.recon"], **CLOSE)


def test_phi_table(golden: Path) -> None:
    table = json.loads((golden / "phi_index_table.json").read_text())
    for count in (2, 3, 4, 8):
        for scales, expected in table[f"shared_{count}"].items():
            assert list(phi_index(int(scales), count)) == expected


def test_export_inverts_import(loaded: tuple[Model, dict[str, Tensor]]) -> None:
    model, tensors = loaded
    exported = model.export_official()
    for part in ("tokenizer", "backbone"):
        published = strip_prefix(tensors, f"{part}.")
        assert exported[part].keys() == published.keys()
        for name, tensor in published.items():
            if name != "quantize.ema_vocab_hit_SV":
                assert torch.equal(exported[part][name], tensor), name
