# The everyday commands. Each target alone, on a machine with only Python, git and make, sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.PHONY: help install demo test test-fast test-slow lint types imports format clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed, this is {sys.version}"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(VENV)/.installed  ## the virtual environment with everything in it

demo: install  ## the engine end to end: real purchases, then a simulated platform
	$(BIN)/recsys demo

test: lint types imports test-fast  ## everything that guards main: lint, types, floors, tests

test-fast: install  ## the tests, without the slow ones
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile

test-slow: install  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: install  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## mypy --strict
	$(BIN)/mypy

imports: install  ## the floors, by import-linter
	$(BIN)/lint-imports

format: install  ## put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what the commands above made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
