# `make demo` and `make test` set themselves up in a virtual environment; VENV and PYTHON choose another one.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo demo-face test check format clean

export OMP_WAIT_POLICY ?= PASSIVE

demo: $(INSTALLED)
	$(BIN)/python -m plugin.demo

demo-face: $(INSTALLED)
	$(BIN)/python -m face.demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(INSTALLED): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --upgrade pip
	$(BIN)/pip install --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo demo-face .pytest_cache .mypy_cache .ruff_cache *.egg-info
