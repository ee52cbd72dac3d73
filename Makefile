.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install quickstart test lint wheel clean

SUPPORTED := 3.13 3.12 3.11
IS_SUPPORTED := import ensurepip, sys, venv; sys.exit("%d.%d" % sys.version_info[:2] not in "$(SUPPORTED)".split())
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# The environment's own where there is one, else the newest that runs; a name on the PATH may be a shim of nothing.
PYTHON ?= $(shell for name in $(BIN)/python $(SUPPORTED:%=python%) python3; do \
	if "$$name" -c '$(IS_SUPPORTED)' 2>/dev/null; then echo "$$name"; break; fi; done)
SAME_PYTHON = test "$$($(BIN)/python -V 2>&1)" = "$$("$(PYTHON)" -V 2>&1)"
# Another Python that is named makes the environment anew.
ifneq ($(origin PYTHON),file)
ifneq ($(shell $(SAME_PYTHON) || echo another),)
.PHONY: $(STAMP)
endif
endif

help:
	@echo "make quickstart   fine-tune, convert, measure and report on the bundled data"
	@echo "make test         lint, types and tests"
	@echo "make lint         lint and types alone"
	@echo "make wheel        build a wheel into dist/"
	@echo "make clean        remove the environment, caches and builds; keeps tflite_models/"

install: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@if ! "$(PYTHON)" -c '$(IS_SUPPORTED)' 2>/dev/null; then \
		echo "edgekit runs on Python 3.11, 3.12 and 3.13 with venv, and $(if $(PYTHON),'$(PYTHON)' is none of them,there is none here);" \
			"install one or run: make PYTHON=/path/to/python3.13 $(MAKECMDGOALS)" >&2; \
		exit 1; \
	fi
	@echo "installing into $(VENV); this takes some minutes the first time"
	$(SAME_PYTHON) || "$(PYTHON)" -m venv --clear $(VENV)
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
