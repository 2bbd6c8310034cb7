#!/bin/sh
# Checks and times on a GPU what cannot be checked without one; takes less than eight minutes.
#
#     tools/gpu_check.sh [FOLDER]     results go to FOLDER (default: gpu_check)
#
# Needs the project installed (make test does that) and a CUDA device. Goes on after a failure; the exit code is 1 then.
set -u
out=${1:-gpu_check}
bin=${BIN:-.venv/bin}
failed=0
mkdir -p "$out"

step() {
    name=$1
    shift
    echo "== $name"
    if ! timeout 240 "$@" > "$out/$name.txt" 2> "$out/$name.err"; then
        echo "   failed: $out/$name.txt $out/$name.err"
        failed=1
    fi
}

"$bin/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "gpu_check: torch finds no CUDA device here" >&2
    exit 2
}
step tests "$bin/pytest" -q -m cuda
for attention in xformers sdpa dense; do
    step "parallel_$attention" "$bin/cyclevar" bench --mode parallel --attention "$attention" --rounds 20 --json
done
step parallel_float32 "$bin/cyclevar" bench --mode parallel --dtype float32 --rounds 10 --json
step parallel_compiled "$bin/cyclevar" bench --mode parallel --compile --rounds 20 --json
step serial "$bin/cyclevar" bench --mode serial --rounds 20 --json
step serial_compiled "$bin/cyclevar" bench --mode serial --compile --rounds 20 --json
step infinity "$bin/cyclevar" bench --backbone infinity --preset 2b --size 512 --rounds 10 --json
step train "$bin/cyclevar" bench --mode train --backbone var --preset tiny --rounds 10 --json
for result in "$out"/*.txt; do
    "$bin/python" - "$result" <<'PYTHON'
import json, pathlib, sys

path = pathlib.Path(sys.argv[1])
try:
    result = json.loads(path.read_text())
except ValueError:
    sys.exit()
total = 1e3 * result["total"]["seconds"]["median"]
print(f"{path.stem}: {total:.2f} ms, {result['speedup_over_plain'] or 1:.2f} times as fast as plain, "
      f"differs by {result['largest_difference']}, {result['attention']}")
PYTHON
done
exit "$failed"
