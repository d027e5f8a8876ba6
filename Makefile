# Two environments in one folder: `make demo` needs the run-time dependencies only, everything else the dev extra too.
# Versions are those of constraints.txt, since the same seed promises the same bits.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
# Much of the time is spent waiting for Flower and Ray, so one worker more than there are cores, four at most. The tests of
# a file share what they set up, so each file goes to one worker.
WORKERS = $(shell $(PYTHON) -c 'import os; print(min(4, os.cpu_count() + 1))')
PYTEST = $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo check test unit lint types format docs bench lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(DEV) ## make .venv and install fedperfit with everything development needs

$(RUN): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "fedperfit needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(DEV): $(RUN)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(RUN) ## simulate federated PerFit on synthetic movie-tagging users
	$(BIN)/fedperfit backbone fetch smollm2-135m
	$(BIN)/fedperfit simulate configs/experiments/demo.toml --name demo --overwrite

check: install ## style, layers, types and unit tests: no Ray, no download, under 90 seconds
	@# The type checker uses one core, so the tests run beside it.
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint types unit

unit: install ## run the tests without a whole run
	$(PYTEST) -m 'not integration and not slow'

test: check ## everything: check, then whole federations in one process, then real SuperLinks and Ray
	$(PYTEST) -m 'integration and not slow'
	$(PYTEST) -m slow

lint: install ## check style and layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install ## run the strict type checker
	$(BIN)/mypy

format: install ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install ## build the site in site/; fails on a dead link or an undocumented name
	$(BIN)/ruff check --select D1 .
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: install ## measure local work against a plain baseline, and the engine's cost
	$(BIN)/fedperfit bench
	$(BIN)/python -m benchmarks.engine

lock: ## update constraints.txt to the newest versions that pyproject.toml allows
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade pip
	.venv-lock/bin/python -m pip install --quiet --editable '.[dev]'
	@(echo '# Written by `make lock`: the versions that `make` installs.'; .venv-lock/bin/python -m pip freeze \
		--exclude-editable | sed 's/+cpu$$//') > constraints.txt
	rm -rf .venv-lock

clean: ## remove the environment and the tools' caches (run records stay)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
