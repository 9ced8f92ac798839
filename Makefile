# `make` lists the targets. Everything installs into .venv; ARGS goes to the command a target runs.

# Debian's own Python first, where it can make environments: it is built with profile-guided optimisation, which pyenv's
# builds are not, and serving's CPU is mostly Python's (docs/decisions.md).
PYTHON ?= $(firstword $(shell /usr/bin/python3.11 -c 'import ensurepip, venv; print("/usr/bin/python3.11")' 2>/dev/null) \
	$(foreach name,python3.11 python3,$(shell command -v $(name))))
BIN := .venv/bin
# Two workers, a file at a time; tests/conftest.py says which belong together.
SPREAD = -n 2 --dist loadfile --no-loadscope-reorder
CODE = $(wildcard flywheel serving rag retrain dashboard benchmarks tools tests)

# Python writes its compiled files, also where the shell forbids it: imports would be compiled anew each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo up test check format lock starter clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## create .venv and install the pinned packages (returns at once when it is up to date)
	@$(or $(PYTHON),$(error Python 3.11 is needed: apt-get install python3 python3-venv)) -m tools.install

demo: setup  ## one whole turn of the wheel, told as it happens (ARGS=--yes answers the operator's question)
	@$(BIN)/flywheel demo $(ARGS)

up: setup  ## the appliance in the foreground: engine, API, worker, dashboard
	@$(BIN)/flywheel up $(ARGS)

test: check  ## everything a change must pass (ARGS goes to pytest)
	$(BIN)/pytest $(SPREAD) $(ARGS)

check: setup  ## style, types and import directions, without the tests
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy --strict $(CODE)
	$(BIN)/lint-imports

format: setup  ## mend what the style checks can mend by themselves
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

lock: setup  ## resolve pyproject.toml into requirements.lock (ARGS=--upgrade takes newer versions)
	@$(BIN)/python -m tools.lock $(ARGS)

starter: setup  ## train the starter base model again (ARGS as in `python -m retrain.starter.train --help`)
	$(BIN)/python -m retrain.starter.train $(ARGS)

clean:  ## remove .venv and caches; data directories stay
	rm -rf .venv dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
