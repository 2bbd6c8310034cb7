#!/bin/sh
# Checks and times on a GPU what cannot be checked without one, in less than eight minutes.
#
#     tools/gpu_check.sh [FOLDER]     results go to FOLDER (default: gpu_check)
#
# Needs the project installed (make test does that) and a CUDA device. What matters most comes first; what does not fit
# into the time is left out, and named. Goes on after a failure. The exit code is 1 if something failed, was left out,
# or missed its goal (tools/gpu_summary.py).
set -u
out=${1:-gpu_check}
bin=${BIN:-.venv/bin}
seconds=${SECONDS_IN_ALL:-460}
begun=$(date +%s)
failed=0
mkdir -p "$out"

# step NAME LIMIT COMMAND...: NAME.txt and NAME.err get what it prints
step() {
    name=$1
    left=$((seconds - ($(date +%s) - begun)))
    limit=$(($2 < left ? $2 : left))
    shift 2
    if [ "$limit" -lt 10 ]; then
        echo "== $name: left out, the time is over"
        failed=1
        return
    fi
    start=$(date +%s)
    if timeout "$limit" "$@" > "$out/$name.txt" 2> "$out/$name.err"; then
        echo "== $name: $(($(date +%s) - start)) s"
    else
        echo "== $name: FAILED after $(($(date +%s) - start)) s of $limit: $out/$name.txt $out/$name.err"
        failed=1
    fi
}

# pass NAME LIMIT OPTIONS...: times a pass of VAR-d16, or of what the options name
pass() {
    name=$1
    limit=$2
    shift 2
    step "$name" "$limit" "$bin/cyclevar" bench --rounds 20 --json "$@"
}

attend() {
    name=$1
    shift
    step "$name" 60 "$bin/python" tools/time_attention.py "$@"
}

"$bin/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "gpu_check: torch finds no CUDA device here" >&2
    exit 2
}
step doctor 60 "$bin/cyclevar" doctor
step tests 150 "$bin/pytest" -q -m cuda
attend attention_var
pass parallel 90
pass serial 90 --mode serial
pass infinity 150 --backbone infinity --preset 2b --size 512
pass parallel_captured 90 --capture
pass serial_captured 90 --mode serial --capture
pass parallel_compiled 150 --compile --capture
pass serial_compiled 150 --mode serial --compile --capture
pass train_d16 120 --mode train --preset d16 --batch 2
step estimate_parallel 60 "$bin/cyclevar" estimate --mode translate --preset d16 --precision bf16 --json
step estimate_train_d16 60 "$bin/cyclevar" estimate --mode train --preset d16 --batch 2 --precision bf16 --json
attend attention_training --batch 8
attend attention_float32 --dtype float32
attend attention_infinity --head-dim 128 --schedule 1-2-4-6-8-12-16-20-24-32
pass train_tiny 60 --mode train --preset tiny --batch 4
pass parallel_sdpa 60 --attention sdpa
pass parallel_batch8 60 --batch 8
pass infinity_compiled 150 --backbone infinity --preset 2b --size 512 --compile --capture
pass parallel_float32 60 --dtype float32
cat "$out"/attention_*.txt 2> /dev/null
"$bin/python" tools/gpu_summary.py "$out" || failed=1
exit "$failed"
