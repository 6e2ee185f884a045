#!/usr/bin/env bash
# Everything that only a GPU can show, in under 8 minutes on one H100 or H200:
#
#     bash benchmarks/gpu.sh                 # rows in runs/gpu/rows.jsonl, all that is said in runs/gpu/log.txt
#     DEVICE=cpu SMALL=1 bash benchmarks/gpu.sh    # the same path at a tiny size, to try it out
#     ONLY=bench bash benchmarks/gpu.sh      # instead: methods on two tasks, 12 layers of width 256 (oneblock bench)
#
# 1. the tests of recorded steps, of batches and of recorded sampling, on the device (needs pytest)
# 2. gpu_check.py: recorded = launched one by one; resumed to the byte; training beside its recorded step alone
# 3. device.py: seconds and bytes, planned and allocated, of DiT-S/2, DiT-XL/2 and a text, rivals and FSDP2 offload too
# 4. scale_images.py: tuned rivals and blocks at 12M layer evaluations, as many runs as the time allows
#
# Needs Python 3.11 or newer with torch, einops and safetensors, and data/fashion-mnist (`make data`) for the last part;
# pytest and hypothesis for the first, torchao for the rows of 8-bit Adam, matplotlib for pictures, tyro and scikit-learn
# for the benchmark of methods: what is missing is left out, and a row says so. Every part has a time limit of its own, and its rows are written as they are made.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/gpu}
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda}
LIMIT=${LIMIT:-470}
SMALL=${SMALL:-}
export PYTHONPATH=src:tests PYTHONUNBUFFERED=1
mkdir -p "$OUT"
rows=$OUT/rows.jsonl
: > "$rows"
exec > >(tee "$OUT/log.txt") 2>&1

part() { # NAME SECONDS COMMAND...: its rows, and how it ended
  local name=$1 seconds=$2 began=$SECONDS
  shift 2
  timeout --kill-after=5 "$seconds" "$@" | tee >(grep --line-buffered '^{' >> "$rows")
  local code=${PIPESTATUS[0]}
  echo "{\"part\": \"$name\", \"exit\": $code, \"seconds\": $((SECONDS - began))}" | tee -a "$rows"
}

device() { # NAME SECONDS WORDS...
  local name=$1 seconds=$2
  shift 2
  part "$name" "$seconds" "$PYTHON" benchmarks/device.py "$@" --device "$DEVICE"
}

if [ "${ONLY:-}" = bench ]; then
  size="--depth 12 --width 256 --heads 4 --batch-size 384 --budget 6M --precision bf16 --seeds 1"
  [ -n "$SMALL" ] && size="--depth 3 --width 16 --heads 2 --budget 600 --num-samples 50 --seeds 1"
  if "$PYTHON" -c 'import tyro, sklearn' 2> /dev/null; then
    part bench "$LIMIT" "$PYTHON" -m oneblock bench --out "$OUT/bench" $size --device "$DEVICE" --json
  else
    echo '{"part": "bench", "left_out": "tyro or scikit-learn is missing"}' | tee -a "$rows"
  fi
  exit
fi
if "$PYTHON" -c 'import pytest, hypothesis' 2> /dev/null; then
  ONEBLOCK_TEST_DEVICE=$DEVICE part tests 90 "$PYTHON" -m pytest -q -x -p no:cacheprovider \
    tests/train/test_stepper.py tests/train/test_feed.py tests/sample/test_recorded.py
else
  echo '{"part": "tests", "left_out": "pytest or hypothesis is missing"}' | tee -a "$rows"
fi
if [ -n "$SMALL" ]; then
  part check 600 "$PYTHON" benchmarks/gpu_check.py --device "$DEVICE" --evaluations 6000 --steps 1
  device "device nano" 600 images --size nano --length 16 --batch-size 4 --steps 2 --images 4
  part scale 900 "$PYTHON" benchmarks/scale_images.py --out "$OUT/scale" --device "$DEVICE" --tiny --seeds 1
  exit
fi
part check 110 "$PYTHON" benchmarks/gpu_check.py --device "$DEVICE"
device "device S/2" 60 images --size S --patch 2 --length 32 --batch-size 256 --steps 8
device "device XL/2" 80 images --size XL --patch 2 --length 32 --batch-size 64 --blocks 4 --steps 4 \
  --only "own block" end-to-end FSDP2
device "device text" 50 text --size B --length 1024 --blocks 4 --batch-size 8 --steps 5
left=$((LIMIT - SECONDS))
part scale "$left" "$PYTHON" benchmarks/scale_images.py --out "$OUT/scale" --device "$DEVICE" --deadline $((left - 45))
