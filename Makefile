# Two commands: `make train` (download, prepare, train, evaluate, report) and `make test` (all checks).
# Both install into .venv first and skip what is already done.

PYTHON ?= python3
# Another package index, for torch's CPU build instead of CUDA's:
#   make train TORCH_INDEX=URL
TORCH_INDEX ?=
RECIPE ?= quick
RUN ?= runs/$(RECIPE)
DATA ?= data/cifar10
PREPARED ?= data/cifar10-prepared
TRAIN_OPTIONS ?=
# Test files that run in parallel, with one thread each.
TESTS_AT_ONCE ?= 2

VENV := .venv
BIN := $(VENV)/bin
ALEXNET := $(BIN)/alexnet
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.PHONY: train test test-torch-oldest test-torch-newest slow format clean

# An interrupted run has weights too, so run.json decides whether training is finished. `report` prints the table of errors.
train: | $(INSTALLED) $(PREPARED)/dataset.json
	@if grep -qs '"state": "finished"' $(RUN)/run.json; then \
	  echo "$(RUN) is already trained; use make train RUN=runs/another for a new one"; \
	else \
	  $(ALEXNET) train $(PREPARED) --recipe $(RECIPE) --run $(RUN) $(TRAIN_OPTIONS); \
	fi
	$(ALEXNET) evaluate $(RUN) --json > /dev/null
	$(ALEXNET) report $(RUN)
	@echo "to use these commands: . $(BIN)/activate; real photographs: alexnet fetch imagenette --size 160 data/imagenette"

$(PREPARED)/dataset.json: | $(INSTALLED) $(DATA)/SOURCE.json
	$(ALEXNET) prepare $(DATA) $(PREPARED)

$(DATA)/SOURCE.json: | $(INSTALLED)
	$(ALEXNET) fetch cifar10 $(DATA)

test: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile

# With the oldest torch that pyproject.toml allows, and with the newest of the package index, each in an environment of
# its own. Triton 3.6, which CUDA's build of torch 2.11 brings, interprets kernels only with NumPy before 2.4; torch 2.11
# requires setuptools before 82.
test-torch-oldest: OTHER_TORCH := 'torch==2.11.0' 'numpy<2.4'
test-torch-newest: OTHER_TORCH := --upgrade torch
test-torch-oldest test-torch-newest: test-torch-%:
	$(PYTHON) -m venv .venv-torch-$*
	grep -Ev '^(torch|triton|numpy|setuptools)==' constraints.txt > .venv-torch-$*/constraints.txt
	.venv-torch-$*/bin/python -m pip install --disable-pip-version-check --quiet -c .venv-torch-$*/constraints.txt \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(OTHER_TORCH) -e '.[dev]'
	.venv-torch-$*/bin/python -c 'import torch; print("torch", torch.__version__)'
	.venv-torch-$*/bin/python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile

slow: $(INSTALLED_DEV)
	$(BIN)/python -m pytest -m slow

format: $(INSTALLED_DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-torch-* dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python's venv module is incomplete; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# Without the development tools, so that installing for training is faster.
$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (torch is large: the first time takes a few minutes)"
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[dev]'
	@touch $@
