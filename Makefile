# make demo | test | lint | bench: each makes .venv first if it is not there.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test lint bench clean

demo: .venv/.installed
	$(BIN)/selfexplain demo --out runs/demo

test: .venv/.installed-dev
	$(BIN)/python -m pytest

lint: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/.installed-dev
	$(BIN)/python -m benchmarks.run

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "selfexplain needs Python 3.11 or newer; pass one, for example: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing selfexplain into .venv (about a minute the first time) ..."
	$(PIP) --constraint constraints.txt --editable .
	@touch $@

.venv/.installed-dev: .venv/.installed constraints-app.txt
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	# timm for its tests, in a folder that only they look into: conftest.py says why.
	$(PIP) --no-deps --upgrade --target .venv/timm timm==1.0.31 torchvision==0.28.0
	# Gradio for the app's tests, with the older Pillow that it asks for: constraints-app.txt.
	$(PIP) --no-deps --upgrade --target .venv/app --requirement constraints-app.txt
	@touch $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
