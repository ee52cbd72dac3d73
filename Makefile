.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install quickstart test lint wheel clean

IS_311 := import sys; sys.exit(sys.version_info[:2] != (3, 11))
PYTHON ?= $(shell for name in python3.11 python3; do if "$$name" -c '$(IS_311)' 2>/dev/null; then echo "$$name"; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

help:
	@echo "make quickstart   fine-tune, convert, measure and report on the bundled data"
	@echo "make test         lint, types and tests"
	@echo "make lint         lint and types alone"
	@echo "make wheel        build a wheel into dist/"
	@echo "make clean        remove the environment, caches and builds; keeps tflite_models/"

install: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@if ! "$(PYTHON)" -c '$(IS_311)' 2>/dev/null; then \
		echo "edgekit needs Python 3.11, and '$(PYTHON)' is not that; install it or run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
		exit 1; \
	fi
	@echo "installing into $(VENV); this takes some minutes the first time"
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	@$(BIN)/edgekit setup onnx || echo "going on without it: models are converted by --bridge litert and tf" >&2
	@touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/edgekit run recipes/quickstart.toml --overwrite

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not timing"
	$(BIN)/pytest -m timing

wheel: $(STAMP)
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist edgekit.egg-info .mypy_cache .pytest_cache .ruff_cache
