"""Derives tests/plugins/{var,flexvar,infinity}/data/small.{json,safetensors} from the folder of golden numbers.

What fits into 200 kB and needs no transformer: the quantizer's recursion, the relaxation and the blend of CycleVAR on
published numbers, the filters of sampling, the phi table, and a digest of every published name and shape.

    python tools/derive_small_golden.py SHARED_FOLDER
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

TESTS = Path(__file__).resolve().parents[1] / "tests" / "plugins"
PRESETS = ("d16", "d20", "d24", "d30", "d36")


def digest(names: dict[str, Any]) -> str:
    """SHA-256 of names with their shapes and types, whatever their order."""
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()


def digests(shared: Path, names: list[str]) -> dict[str, str]:
    return {name: digest(json.loads((shared / "keys" / f"{name}.json").read_text())) for name in names}


def write(family: str, info: dict[str, Any], tensors: dict[str, Any]) -> None:
    target = TESTS / family / "data"
    target.mkdir(parents=True, exist_ok=True)
    (target / "small.json").write_text(json.dumps(info) + "\n")
    save_file(tensors, target / "small.safetensors")
    (target / "small.safetensors").chmod(0o644)


def flexvar(shared: Path) -> None:
    golden = shared / "golden"
    plain, cycle = (load_file(golden / f"{name}.safetensors") for name in ("flexvar_a", "cyclevar_flexvar_a"))
    config = json.loads((golden / "flexvar_a.json").read_text())["config"]
    wanted = ["enc_latent", "var_input", "alt_var_input"]
    wanted += [f"{kind}_{k}" for k in range(len(config["patch_nums"])) for kind in ("idx", "quant")]
    wanted += [f"alt_idx_{k}" for k in range(len(config["alt"]))]
    kept = {f"out.{name}": plain[f"out.{name}"] for name in wanted}
    kept["tokenizer.quantize.embedding.weight"] = plain["tokenizer.quantize.embedding.weight"]
    scales = range(len(config["patch_nums"]))
    kept |= {f"cycle.{name}": cycle[f"out.{name}"] for name in ("par_replace_logits", "par_replace_E")}
    kept |= {f"cycle.F_{k}": cycle[f"out.F_{k}"] for k in scales}
    names = digests(shared, ["flexvae", "flexvar_d16", "flexvar_d20", "flexvar_d24"])
    settings = {name: config[name] for name in ("vae", "patch_nums", "alt", "tau", "mix")}
    write("flexvar", {"config": settings, "names": names}, kept)


def infinity(shared: Path) -> None:
    golden = shared / "golden"
    plain, cycle = (load_file(golden / f"{name}.safetensors") for name in ("infinity_a", "cyclevar_infinity_a"))
    info = json.loads((golden / "infinity_a.json").read_text())
    scales = range(len(info["scale_schedule"]))
    kept = {f"out.{name}": plain[f"out.{name}"] for name in ("enc_latent", "vae_z", "var_input")}
    kept |= {f"out.vae_bits_{k}": plain[f"out.vae_bits_{k}"].bool() for k in scales}
    wanted = ["par_replace_logits", "par_replace_E", *(f"F_{k}" for k in scales)]
    kept |= {f"cycle.{name}": cycle[f"out.{name}"] for name in wanted}
    settings = {name: info["config"][name] for name in ("vae", "tau", "mix", "pn")}
    names = sorted(path.stem for path in (shared / "keys").glob("infinity_*.json"))
    write("infinity", {"config": settings, "names": digests(shared, names)}, kept)


def var(shared: Path) -> None:
    golden = shared / "golden"
    plain, cycle = (load_file(golden / f"{name}.safetensors") for name in ("var_a", "cyclevar_var_a"))
    info = json.loads((golden / "var_a.json").read_text())
    scales = len(info["config"]["patch_nums"])
    parts = [f"{kind}_{k}" for k in range(scales) for kind in ("idx", "fhat")]
    kept = {name: plain[name] for name in plain if name.startswith(("tokenizer.quantize.", "out.samp_"))}
    kept |= {f"out.{name}": plain[f"out.{name}"] for name in ("enc_latent", "var_input", *parts)}
    wanted = [
        "par_replace_logits",
        "par_replace_E",
        *(f"{kind}_{k}" for k in range(scales) for kind in ("F", "par_replace_R")),
    ]
    kept |= {f"cycle.{name}": cycle[f"out.{name}"] for name in wanted}
    table = json.loads((golden / "phi_index_table.json").read_text())
    names = digests(shared, [*(f"var_{preset}" for preset in PRESETS), "var_vae_ch160v4096z32"])
    small = {
        "config": {name: info["config"][name] for name in ("vae", "patch_nums", "tau", "mix")},
        "phi": {count: table[f"shared_{count}"] for count in (2, 3, 4, 8)},
        "names": names,
    }
    write("var", small, kept)


if __name__ == "__main__":
    var(Path(sys.argv[1]))
    flexvar(Path(sys.argv[1]))
    infinity(Path(sys.argv[1]))
