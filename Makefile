# The whole project from one command each; everything lands in .venv, nothing is installed outside it.
#
#   make demo    see it work: trains LeNet-5, runs five networks, draws pictures into demo/
#   make test    build (with CUDA kernels where nvcc is found) and run the tests
#   make slow    the tests that take minutes
#   make lint    formatting, style and types
#   make bench   the quick benchmark suite
#   make gpu     on a machine with a GPU: build, verify, measure, sanitize; PART=1 fits 400 s, PART=2 300 s,
#                REHEARSE=1 runs every step's counterpart on the emulator
#   make docs    the documentation's site, into site/; needs no torch
#   make dist    the source distribution and this machine's wheel, into dist/
#   make wheels  the wheels of every Python, by cibuildwheel (needs Docker on Linux), into dist/
#
# PYTHON=python3.12 chooses the interpreter; TORCH="torch==2.8.0" another torch.
#
# Without an NVIDIA GPU, set TORCH_INDEX to the package index of PyTorch's CPU build (choose "CPU" on
# https://pytorch.org/get-started/locally and take the --index-url of the command it shows): some 200 MB are then
# downloaded for torch. What pip takes by default on Linux brings several GB of CUDA libraries along.

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# --no-build-isolation here only keeps the compiled objects valid from one build to the next.
INSTALL := $(PIP) --no-build-isolation --editable
INSTALL_TORCH := $(PIP) '$(TORCH)' $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)')
CXX_FILES := $(shell git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh' 'csrc/*.cc' 2>/dev/null)

.PHONY: demo test slow lint format bench gpu dist check-tag wheels docs clean

demo: $(VENV)/tools
	$(if $(shell nvidia-smi -L 2>/dev/null),,FASTCNN_CUDA=0) $(INSTALL) '.[demo]'
	$(BIN)/python -m fastcnn demo --output demo

# Two processes of several threads each: threads that spin while they wait for work take the cores from those that
# have some, and the tests half as long again.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2

test: $(VENV)/tested
	$(PYTEST) -m "not slow and not gpu"

slow: $(VENV)/tested
	$(PYTEST) -m "slow and not gpu"

lint: $(VENV)/tools
	$(PIP) 'numpy' 'typer' 'rich' 'safetensors' -r requirements/lint.txt
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
	$(PYTHON) scripts/gpu.py

dist: $(VENV)/tools
	$(PIP) build
	FASTCNN_CUDA=0 $(BIN)/python -m build --outdir dist

# A release's tag is its version: make check-tag TAG=v0.1.0
check-tag:
	@grep -q '^version = "$(TAG:v%=%)"$$' pyproject.toml || { echo "pyproject.toml has another version than $(TAG)"; exit 1; }

wheels: $(VENV)/tools
	$(PIP) -r requirements/wheels.txt
	$(BIN)/cibuildwheel --output-dir dist

docs: $(VENV)-docs/tools
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict --quiet

$(VENV)-docs/tools: requirements/docs.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/docs.txt
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-docs build demo dist site fastcnn/*.so *.egg-info

$(VENV)/tools:
	@$(PYTHON) -c 'import ensurepip, sys; assert sys.version_info >= (3, 10)' 2>/dev/null || \
	  { echo "fastcnn needs Python 3.10 or newer with its venv module (on Debian: apt-get install python3-venv)"; exit 1; }
	@command -v c++ >/dev/null || { echo "fastcnn needs a C++ compiler (on Debian: apt-get install g++)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'setuptools>=77' wheel 'cmake>=3.25,<5' ninja 'pybind11>=2.13'
	@$(if $(TORCH_INDEX),,nvidia-smi -L >/dev/null 2>&1 || \
	  echo "No GPU here, and TORCH_INDEX is not set: torch may bring several GB of CUDA (see the Makefile's first lines)")
	$(INSTALL_TORCH)
	touch $@

# torchvision and timm serve as independent definitions of the networks. They are installed without their
# dependencies: torchvision's own would replace the torch that is being tested.
.PHONY: $(VENV)/tested
$(VENV)/tested: $(VENV)/tools
	$(PIP) -r requirements/test.txt
	$(PIP) --no-deps -r requirements/peer-definitions.txt
	$(INSTALL) '.[demo]'
