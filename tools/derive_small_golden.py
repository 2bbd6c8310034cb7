"""Derives tests/plugins/var/data/small.{json,safetensors} from the folder of golden numbers.

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

TARGET = Path(__file__).resolve().parents[1] / "tests" / "plugins" / "var" / "data"
PRESETS = ("d16", "d20", "d24", "d30", "d36")


def digest(names: dict[str, Any]) -> str:
    """SHA-256 of names with their shapes and types, whatever their order."""
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()


def main(shared: Path) -> None:
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
    names = {
        f"var_{preset}": digest(json.loads((shared / "keys" / f"var_{preset}.json").read_text())) for preset in PRESETS
    }
    tokenizer = "var_vae_ch160v4096z32"
    names[tokenizer] = digest(json.loads((shared / "keys" / f"{tokenizer}.json").read_text()))
    small = {
        "config": {name: info["config"][name] for name in ("vae", "patch_nums", "tau", "mix")},
        "phi": {count: table[f"shared_{count}"] for count in (2, 3, 4, 8)},
        "names": names,
    }
    TARGET.mkdir(parents=True, exist_ok=True)
    (TARGET / "small.json").write_text(json.dumps(small) + "\n")
    save_file(kept, TARGET / "small.safetensors")
    (TARGET / "small.safetensors").chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
