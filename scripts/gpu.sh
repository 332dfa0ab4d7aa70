#!/usr/bin/env bash
# Build, verify, sanitize and measure on a machine with a GPU, which may have no network. `make gpu` runs it.
#
# A step that fails or passes its limit does not stop the others; the end says which failed. Whole output, the ledger
# and the result files go to $OUT (default: results/gpu).
#
# Needs in the current Python: torch with CUDA, setuptools, pybind11, cmake, ninja, pytest (better with pytest-xdist
# and pytest-timeout), typer, rich; and nvcc. Fetches nothing.
#   STEPS="build parity"   only these, in this order (default: all, as below)
#   BUDGET=1700            seconds in all; a step that does not fit any more is not started. Where a machine is lent for
#                          ten minutes at a time: BUDGET=570 and, one after another, STEPS="device build first parity
#                          ledger", STEPS=sanitize, STEPS="tune bench"
#   PYTHON=python3.12      the interpreter (default: python3)
#   FASTCNN_CUDA_ARCHS     architectures to build (default: those of the GPUs found)
#   REHEARSE=1             without a GPU: every command runs as far as it gets, and may stop where the GPU is missing
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
STEPS=${STEPS-device build first parity ledger sanitize tune bench}
BUDGET=${BUDGET:-1700}
REHEARSE=${REHEARSE:-}
OUT=${OUT:-results/gpu}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
LOG=$OUT/log.txt
: > "$LOG"
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
summary=() failed=()

# run NAME LIMIT COMMAND...: at most LIMIT seconds. The end of its output is shown, all of it kept.
run() {
  local name=$1 limit=$2 start=$SECONDS code=0 verdict=passed output
  shift 2
  if ((SECONDS + limit / 4 > BUDGET)); then
    summary+=("not run: $name (no time left; STEPS=\"...\" runs it alone)") failed+=("$name")
    return
  fi
  if ((SECONDS + limit > BUDGET)); then limit=$((BUDGET - SECONDS)); fi
  output=$(mktemp)
  printf '\n== %s (at most %d s): %s\n' "$name" "$limit" "$*" | tee -a "$LOG"
  timeout --kill-after=5 "$limit" "$@" > "$output" 2>&1 || code=$?
  cat "$output" >> "$LOG"
  tail -n 25 "$output" | cut -c1-240
  case $code in
    0) ;;
    124 | 137) verdict="TIMED OUT after $limit s" ;;
    *) verdict="FAILED (exit $code)" ;;
  esac
  if [[ $REHEARSE && $code == 1 ]] && grep -qE 'no GPU is visible|no CUDA device is visible|NVIDIA driver|not compiled with CUDA' "$output"; then
    verdict="stopped where the GPU is missing"
  elif [[ $verdict != passed ]]; then
    failed+=("$name")
  fi
  rm -f "$output"
  summary+=("$verdict: $name, $((SECONDS - start)) s")
}

has() { "$PYTHON" -c "import $1" 2> /dev/null; }

# Processes of their own, where xdist is: a kernel that breaks its CUDA context takes no other test with it, and one
# that hangs is killed (see tests/cuda/conftest.py).
pytest=("$PYTHON" -m pytest -m gpu -q -p no:cacheprovider)
if has pytest_timeout; then pytest+=(--timeout 150 --timeout-method thread); fi
parallel=("${pytest[@]}")
if has xdist; then parallel+=(-n 8); fi

device() {
  run "driver" 20 nvidia-smi
  run "compiler" 20 nvcc --version
  run "versions" 60 "$PYTHON" -c '
import platform, torch
print(platform.platform(), platform.python_version(), "torch", torch.__version__, "cuDNN", torch.backends.cudnn.version())
import triton; print("triton", triton.__version__)
torch.cuda.init()
for i in range(torch.cuda.device_count()): print(torch.cuda.get_device_properties(i))'
}

# Hopper's own instructions are named by the "a" of 90a.
build() {
  if [[ -z ${FASTCNN_CUDA_ARCHS:-} ]]; then
    FASTCNN_CUDA_ARCHS=$("$PYTHON" -c '
import torch
found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
print(";".join("90a" if c == (9, 0) else f"{c[0]}{c[1]}" for c in sorted(found)))')
  fi
  export FASTCNN_CUDA=1 FASTCNN_CUDA_ARCHS
  # An installation is not needed to run from here, and a system's Python may refuse one.
  run "build for sm_${FASTCNN_CUDA_ARCHS//;/, sm_}" 300 bash -c \
    "'$PYTHON' -m pip install --quiet --no-build-isolation --no-deps --no-index --editable . ||
     '$PYTHON' setup.py build_ext --inplace"
  run "info" 60 "$PYTHON" -m fastcnn info
}

# Every CUDA C++ kernel, launches one by one: what fails here fails with the least around it.
first() {
  CUDA_LAUNCH_BLOCKING=1 run "first launches" 120 "${pytest[@]}" -v tests/cuda/test_device.py -k "not triton"
}

parity() {
  run "parity" 200 "${parallel[@]}" --durations 10 --continue-on-collection-errors tests/cuda tests/triton
}

# A process for each operator: a context that breaks takes no other operator's entries with it. The entries go into
# the user's own ledger, which stays where the checkout is sent anew before the next steps, and from there into the
# package's.
ledger() {
  local op
  for op in $("$PYTHON" -c 'import fastcnn; print(*fastcnn.core.selector.SELECTORS)'); do
    run "ledger: $op" 90 "$PYTHON" -m fastcnn verify --only "$op."
  done
  run "ledger" 30 "$PYTHON" -c '
import shutil, sys
from fastcnn.core import ledger
if ledger.USER_PATH.exists():
    ledger.write(ledger.PATH, ledger.read(ledger.USER_PATH))
shutil.copy(ledger.PATH, sys.argv[1])' "$OUT/ledger.json"
}

sanitize() {
  local check filter=() # PyTorch's kernels are not ours to check
  if ! command -v compute-sanitizer > /dev/null; then
    summary+=("not run: compute-sanitizer is not on PATH") failed+=("sanitize")
    return
  fi
  case $(compute-sanitizer --help 2>&1) in
    *--kernel-name\ *) filter=(--kernel-name kns=fastcnn) ;;
    *--kernel-regex\ *) filter=(--kernel-regex kns=fastcnn) ;;
  esac
  for check in memcheck racecheck synccheck; do
    # Without PyTorch's allocator, which hands out parts of larger blocks, every tensor has bounds of its own.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 run "$check" 120 compute-sanitizer --tool "$check" --error-exitcode 1 \
      "${filter[@]}" "$PYTHON" -m pytest -m gpu -q -p no:cacheprovider tests/cuda/test_memory_bound.py \
      tests/cuda/test_conv2d.py tests/cuda/test_conv2d_max_pool2d.py \
      -k "(memory_bound and float16) or tiles or split_sum or gather or hopper or (max_pool2d and float16)"
  done
}

# The file of the user's cache is what the next step's kernels are chosen by; the copy is to be committed into
# fastcnn/tuning. The whole of it, every candidate of every layer, takes hours: python -m fastcnn tune.
tune() {
  run "tune" 240 "$PYTHON" -m fastcnn tune --device cuda --networks resnet50 --batches 32 --dtypes float16 \
    --most 6 --seconds 0.02
  run "tuning file" 30 "$PYTHON" -c '
import shutil, sys, torch
from fastcnn.core import tuned
shutil.copy(tuned.USER / tuned.file_name(torch.cuda.get_device_name()), sys.argv[1])' "$OUT"
}

# Each file is written anew after every case: what a limit cuts off loses the rest only.
bench() {
  local common=(--device cuda --batches 1,32)
  run "ceilings" 60 "$PYTHON" -c '
import json, sys
from fastcnn.workbench.report import roofline
found = roofline.measure("cuda", ("float32", "float16", "bfloat16")).to_json()
print(json.dumps(found, indent=1)); json.dump(found, open(sys.argv[1], "w"), indent=1)' "$OUT/ceilings.json"
  run "bench: networks" 200 "$PYTHON" -m fastcnn bench "${common[@]}" --kinds network \
    --contenders fastcnn,eager,cudnn_graph --output "$OUT/networks.json"
  run "bench: operators" 240 "$PYTHON" -m fastcnn bench "${common[@]}" --kinds op \
    --contenders fastcnn,eager,cudnn --output "$OUT/operators.json"
}

for step in $STEPS; do
  case $step in
    device | build | first | parity | ledger | sanitize | tune | bench) "$step" ;;
    *) echo "gpu: unknown step $step; there are: device build first parity ledger sanitize tune bench" >&2; exit 2 ;;
  esac
done

{
  printf '\n== summary, %d s; everything is in %s\n' "$SECONDS" "$OUT"
  printf '%s\n' "${summary[@]}"
  printf 'failed: %s\n' "$(IFS=,; echo "${failed[*]:-nothing}")"
} | tee -a "$LOG" "$OUT/summary.txt"
((${#failed[@]} == 0))
