# `make demo` and `make test` set themselves up in a virtual environment; VENV and PYTHON choose another one.
# WORKERS processes share the tests; 0: one process, in which a debugger works.
VENV ?= .venv
PYTHON ?= python3
WORKERS ?= 2
BIN := $(VENV)/bin
# A process that has to be ended is not replaced: it would start the same test again.
TEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --max-worker-restart 0
INSTALLED := $(VENV)/.installed

.PHONY: demo demo-face test check format clean

export OMP_WAIT_POLICY ?= PASSIVE

demo: $(INSTALLED)
	$(BIN)/python -m plugin.demo

demo-face: $(INSTALLED)
	$(BIN)/python -m face.demo

test: $(INSTALLED)
	$(TEST)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TEST)

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
