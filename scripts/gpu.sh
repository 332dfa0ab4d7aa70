#!/usr/bin/env bash
# Build, verify and sanitize on a machine with a GPU, which may have no network. `make gpu` runs it.
#
# Needs in the current Python: torch with CUDA, setuptools, pybind11, cmake, ninja, pytest; and nvcc. Fetches nothing.
#   PYTHON=python3.12      the interpreter (default: python3)
#   FASTCNN_CUDA_ARCHS     architectures to build (default: those of the GPUs found)
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

command -v nvcc >/dev/null || { echo "gpu: nvcc is not on PATH" >&2; exit 1; }
"$PYTHON" - <<'PY' || exit 1
import sys, torch
if not torch.cuda.is_available():
    sys.exit(f"gpu: torch {torch.__version__} sees no CUDA device")
PY

# Hopper's own instructions are named by the "a" of 90a.
DETECTED=$("$PYTHON" -c '
import torch
found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
print(";".join("90a" if c == (9, 0) else f"{c[0]}{c[1]}" for c in sorted(found)))')
export FASTCNN_CUDA=1 FASTCNN_CUDA_ARCHS=${FASTCNN_CUDA_ARCHS:-$DETECTED}
echo "== building for sm_${FASTCNN_CUDA_ARCHS//;/, sm_}"
"$PYTHON" -m pip install --quiet --no-build-isolation --no-deps --no-index --editable .
"$PYTHON" -m fastcnn info || true  # the command line needs typer and rich, which this machine may lack

status=0
echo "== tests on the GPU"
"$PYTHON" -m pytest -m gpu -q || status=1

echo "== compute-sanitizer"
if command -v compute-sanitizer >/dev/null; then
  for check in memcheck racecheck synccheck; do
    compute-sanitizer --tool "$check" --error-exitcode 1 --kernel-regex kns=fastcnn \
      "$PYTHON" -m pytest -m gpu -q -x tests/cuda -k "test_tiles or test_split_sum or test_adaptive or test_hopper_types" \
      || status=1
  done
else
  echo "gpu: compute-sanitizer is not on PATH; nothing was checked by it" >&2
fi

echo "== ledger"
# Only what ran correctly is entered; the file says device, date and error.
"$PYTHON" -m fastcnn verify --output fastcnn/tuning/ledger.json || status=1
exit $status
