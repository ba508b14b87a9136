# Everything a checkout needs: `make demo` and `make test` make their own environment first.
#
#   make PYTHON=/path/to/python3.11 test    another interpreter (once there is a .venv: after `make clean`)
#   make test WORKERS=0                     the tests in one process
#   make test PYTEST_ARGS="-k clipping"     some of the tests

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CHECKED := $(wildcard src tests examples benchmarks)
WORKERS ?= 2
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCHMARK_ARGS ?=
SCORE_ARGS ?=

# `python3` first: it is the one that wheels are chosen for on most machines.
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

# Twice quiet: errors only. A plain -q still repeats, package by package, what it thinks of a machine's own package index.
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -qq --constraint constraints.txt
# One thread a worker: on small tensors a second one costs more than it brings, above all beside another worker.
THREADS ?= 1
PYTEST := OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest --numprocesses $(WORKERS)

.PHONY: help demo test test-all faults score score-rules score-kill rule-pictures benchmark gradient-checks tensorboard-figures lint format clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 22

demo: $(INSTALLED) ## train four small models under the monitor and show what it saw (one to two minutes)
	@$(BIN)/gradwatch demo $(DEMO_ARGS)

test: lint ## everything that CI runs: linters, types, layers, tests
	@echo "[test] pytest"
	@$(PYTEST) $(PYTEST_ARGS)

test-all: lint ## as `test`, with the long runs
	@echo "[test] pytest, long runs included"
	@$(PYTEST) -m "" --timeout 3600 $(PYTEST_ARGS)

faults: $(INSTALLED) ## every planted fault: at least 500 seeded runs
	@$(PYTEST) -m "" --timeout 3600 tests/faults $(PYTEST_ARGS)

score: $(INSTALLED) ## every bug of the zoo, in every way of training: what gradwatch and two usual tools name
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m tests.zoo.score $(SCORE_ARGS)

score-rules: $(INSTALLED) ## every health rule on planted faults and on healthy trainings (writes docs/rule_figures.md)
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m tests.rules.score $(SCORE_ARGS)

score-kill: $(INSTALLED) ## 200 trainings killed with SIGKILL, and what they leave (writes docs/postmortem_figures.md)
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m tests.postmortem.kill --write $(SCORE_ARGS)

rule-pictures: $(INSTALLED) ## a picture and an example of every health rule (writes docs/rules and docs/images/rules)
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python benchmarks/rule_pictures.py $(BENCHMARK_ARGS)

benchmark: $(INSTALLED) ## what the monitor costs
	@$(BIN)/python benchmarks/overhead.py $(BENCHMARK_ARGS)

gradient-checks: $(INSTALLED) ## what the gradient check detects, says and costs (writes docs/gradient_check_figures.md)
	@$(BIN)/python benchmarks/gradient_checks.py $(BENCHMARK_ARGS)

tensorboard-figures: $(INSTALLED) ## what the Numerical Health tab costs (writes docs/tensorboard_figures.md)
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/python benchmarks/tensorboard_loading.py $(BENCHMARK_ARGS)

lint: $(INSTALLED) ## ruff, mypy, import-linter
	@echo "[lint] ruff check"
	@$(BIN)/ruff check --quiet .
	@echo "[lint] ruff format"
	@$(BIN)/ruff format --check --quiet .
	@echo "[lint] mypy"
	@$(BIN)/mypy --no-error-summary $(CHECKED)
	@echo "[lint] layers"
	@$(BIN)/lint-imports --no-logo

format: $(INSTALLED) ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove the environment, caches and builds
	@rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first: with the pinned one there, nothing else can ask for another.
$(INSTALLED): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    python=; \
	    for candidate in $(CANDIDATES); do \
	        if "$$candidate" -c '$(USABLE)' >/dev/null 2>&1; then python=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "no Python 3.11 or newer with venv found (tried: $(CANDIDATES)); install one" \
	            "(Debian: apt-get install python3-venv) or name it: make PYTHON=/path/to/python3" >&2; \
	        exit 1; \
	    fi; \
	    echo "[setup] $(VENV) with $$("$$python" --version)"; \
	    rm -rf $(VENV); \
	    "$$python" -m venv $(VENV); \
	}
	@echo "[setup] $$(grep '^torch==' constraints.txt)"
	@$(PIP) setuptools torch
	@echo "[setup] gradwatch and its tools"
	@$(PIP) --no-build-isolation --editable '.[demo,dev]'
	@touch $@
