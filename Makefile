# The whole project from one command each; everything lands in .venv, nothing is installed outside it.
#
#   make demo    see it work: trains LeNet-5, runs five networks, draws pictures into demo/
#   make test    build (with CUDA kernels where nvcc is found) and run the tests
#   make slow    the tests that take minutes
#   make lint    formatting, style and types
#   make bench   the quick benchmark suite
#   make gpu     on a machine with a GPU: build, verify, sanitize, measure
#
# PYTHON=python3.12 chooses the interpreter; TORCH="torch==2.8.0" another torch.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# --no-build-isolation here only keeps the compiled objects valid from one build to the next.
INSTALL := $(PIP) --no-build-isolation --editable
CXX_FILES := $(shell git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh' 'csrc/*.cc' 2>/dev/null)

.PHONY: demo test slow lint format bench gpu clean

demo: $(VENV)/tools
	$(if $(shell nvidia-smi -L 2>/dev/null),,FASTCNN_CUDA=0) $(INSTALL) '.[demo]'
	$(BIN)/python -m fastcnn demo --output demo

test: $(VENV)/tested
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

slow: $(VENV)/tested
	$(BIN)/python -m pytest -n 2 -m "slow and not gpu"

lint: $(VENV)/tools
	$(PIP) '$(TORCH)' 'numpy' 'typer' 'rich' 'safetensors' -r requirements/lint.txt
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

bench: $(VENV)/tested
	$(BIN)/python -m pytest benchmarks --benchmark-only --quick

gpu:
	bash scripts/gpu.sh

clean:
	rm -rf $(VENV) build demo fastcnn/*.so *.egg-info

$(VENV)/tools:
	@$(PYTHON) -c 'import ensurepip, sys; assert sys.version_info >= (3, 10)' 2>/dev/null || \
	  { echo "fastcnn needs Python 3.10 or newer with its venv module (on Debian: apt-get install python3-venv)"; exit 1; }
	@command -v c++ >/dev/null || { echo "fastcnn needs a C++ compiler (on Debian: apt-get install g++)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'setuptools>=77' wheel 'cmake>=3.25,<5' ninja 'pybind11>=2.13'
	$(PIP) '$(TORCH)'
	touch $@

# torchvision and timm serve as independent definitions of the networks. They are installed without their
# dependencies: torchvision's own would replace the torch that is being tested.
.PHONY: $(VENV)/tested
$(VENV)/tested: $(VENV)/tools
	$(PIP) -r requirements/test.txt
	$(PIP) --no-deps -r requirements/peer-definitions.txt
	$(INSTALL) '.[demo]'
