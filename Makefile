# From a fresh clone, with nothing but Python 3.11+ and make:   make demo   ·   make test
#
# Variables: PYTHON (which interpreter makes .venv), JOBS (test processes), DEMO_ARGS (the demo's budget),
# PYTEST_ARGS (more options for pytest), TORCH_ARGS (more options for the step that installs torch: for
# example the index of PyTorch's CPU builds, where the default would fetch gigabytes of CUDA).

PYTHON ?= python3
JOBS ?= 2
DEMO_ARGS ?=
PYTEST_ARGS ?=
TORCH_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint format clean

help:
	@echo "make demo    train a small decoder per encoding on Bach chorales; table, figure and page"
	@echo "make test    the tests"
	@echo "make lint    ruff and pyright"
	@echo "make format  let ruff rewrite what it can"
	@echo "make clean   remove .venv, caches and results/demo"

demo: .venv/.demo
	$(BIN)/whatwhere compare chorales --out results/demo $(DEMO_ARGS)

# One thread a process: the tests' tensors are small, and $(JOBS) processes share the cores.
# pytest's exit code 5 (no test was run) stays a failure: this suite is never empty.
test: .venv/.test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

format: .venv/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis results/demo build dist

# Setting up: each step leaves a stamp, so that it is done once, and again when the pins change.

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "whatwhere needs Python 3.11 or newer; '$(PYTHON)' is not: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "Setting up .venv (once): a virtual environment …"
	@$(PYTHON) -m venv .venv || \
	    { echo "python -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

# torch first and alone: the pin then holds, and no later package brings another build of it.
.venv/.torch: .venv/.python constraints.txt
	@echo "Setting up .venv (once): PyTorch, about a minute …"
	@$(PIP) torch $(TORCH_ARGS)
	@touch $@

.venv/.demo: .venv/.torch pyproject.toml
	@echo "Setting up .venv (once): whatwhere with what the demo needs, about a minute …"
	@$(PIP) -e '.[cli,study,report]'
	@touch $@

.venv/.test: .venv/.torch pyproject.toml
	@echo "Setting up .venv (once): whatwhere with what the tests need, about two minutes …"
	@$(PIP) -e '.[test]'
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(PIP) -e '.[test-kernels]'
	@touch $@
