# Everything from a fresh clone: needs Python 3.11 or newer, git and make. `make help` lists the targets.
#
#   PYTHON=/path/to/python       the Python that makes the environment (found by itself otherwise)
#   TORCH_INDEX_URL=https://...  package index to take torch from, for a build other than the default one

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv demo lab test bench soak matrix grid fuzz lint unit chromium clean distclean

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.ftkit-installed
TORCH := $(shell grep -E '^torch==' constraints.txt)
TORCH_INDEX_URL ?=
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	"$$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& command -v "$$name" && break; done)
PYTEST_ARGS ?=
BENCH_ARGS ?=
SOAK_ARGS ?=
FUZZ_ARGS ?=

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1	/' | expand -t 16

venv: $(INSTALLED) ## make .venv and install ftkit in it

# torch goes first so that TORCH_INDEX_URL is asked for torch alone; it stays as it is in the second step.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "ftkit needs Python 3.11 or newer with its venv module" \
		"(on Debian and Ubuntu: apt-get install python3-venv). Or name one: make PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "$(TORCH)"
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(INSTALLED) ## fine-tune the starter model and show that it learned (minutes, on a plain CPU)
	@$(BIN)/ftkit demo

lab: $(INSTALLED) ## open JupyterLab on the Lab
	@$(BIN)/ftkit lab notebooks/lab.ipynb

test: lint unit ## everything: lint, types, layers, tests, notebooks, browser

lint: $(INSTALLED) ## ruff, mypy and the layers of the package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --verbose

# Passive waiting: a notebook's kernel trains while the test process may still hold torch threads, and threads that
# spin for each other's cores make a step take a minute (measured: 194 s became 19 s).
unit: export OMP_WAIT_POLICY := PASSIVE
unit: $(INSTALLED) chromium ## the tests alone (PYTEST_ARGS="-k name" picks some)
	$(BIN)/python -m pytest -n 2 --nbval-lax --nbval-current-env $(PYTEST_ARGS) tests notebooks

# The browser tests drive the system's own Chromium. Where it cannot be installed they skip, and say so.
chromium:
	@if command -v chromium chromium-browser google-chrome >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		echo "Installing Chromium for the browser tests"; \
		{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } \
			>/dev/null || echo "Chromium could not be installed: the browser tests will skip"; \
	else echo "There is no Chromium here: the browser tests will skip"; fi

bench: $(INSTALLED) ## speed and memory beside Hugging Face, TRL and Unsloth, measured side by side (BENCH_ARGS="--rounds 1")
	$(BIN)/python -m tests.benchmarks.data_speed
	$(BIN)/python -m tests.benchmarks.chat_speed
	$(BIN)/python -m tests.benchmarks.train_speed $(BENCH_ARGS)

soak: $(INSTALLED) ## hundreds of runs killed, starved of disk, damaged, stopped at random moments (SOAK_ARGS="--faults 20")
	$(BIN)/python -m tests.faults.driver $(SOAK_ARGS)

matrix: $(INSTALLED) ## the kernel-facing tests on several Pythons and releases of ipykernel
	$(BIN)/python -m tests.kernel.matrix

grid: export FTKIT_GRID := 1
grid: export OMP_WAIT_POLICY := PASSIVE
grid: $(INSTALLED) ## every objective with every method on every architecture, as tests/matrix/TABLE.md says
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/matrix

# The coverage-guided half needs atheris, which has wheels for some Pythons only: without it that half is left out.
fuzz: export OMP_WAIT_POLICY := PASSIVE
fuzz: $(INSTALLED) ## 100,000 damaged files, recipes, templates, runs: does anything but ftkit's own errors escape?
	@$(BIN)/python -m pip install --quiet atheris 2>/dev/null || echo "atheris does not install here"
	$(BIN)/python -m tests.fuzz --cases 100000 --coverage 20 $(FUZZ_ARGS)

clean: ## remove caches and build output (never your runs)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find ftkit tests -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## the same, and .venv
	rm -rf $(VENV) .venv-matrix
