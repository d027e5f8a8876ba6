# The environment is one folder, .venv; its stamp makes `make install` a no-op until pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Much of the time is waiting for Flower and Ray, so one worker more than there are cores, four at most. A file's tests
# share what they set up, so files are dealt out whole.
WORKERS = $(shell $(PYTHON) -c 'import os; print(min(4, os.cpu_count() + 1))')
PARALLEL = --numprocesses $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo test unit lint types format bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv and install fedperfit into it

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "fedperfit needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: install ## simulate federated PerFit on synthetic movie-tagging users
	$(BIN)/fedperfit backbone fetch smollm2-135m
	$(BIN)/fedperfit simulate configs/experiments/demo.toml --name demo --overwrite

test: install ## run every test, the linters and the type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest $(PARALLEL)

unit: install ## run the tests that need neither Ray nor SmolLM2 (under a minute)
	$(BIN)/pytest $(PARALLEL) -m 'not slow and not integration'

lint: install ## check style and layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install ## run the strict type checker
	$(BIN)/mypy

format: install ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## measure local work against a plain baseline, and the engine's cost
	$(BIN)/fedperfit bench
	$(BIN)/python -m benchmarks.engine

clean: ## remove the environment and the tools' caches (run records stay)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
