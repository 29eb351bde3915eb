# `make demo` and `make test` need Python 3.11 or newer and make; each makes its own environment under .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint bench clean

$(VENV)/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[all,aggregate]" --group test --group lint --group loops
	touch $@

# Threads that wait asleep: where other work shares the cores, threads that wait awake make a step many times slower.
demo: export OMP_WAIT_POLICY = PASSIVE
demo: $(VENV)/.ready
	rm -rf runs/demo
	$(BIN)/headwise train textsnake --demo --out runs/demo
	$(BIN)/headwise predict runs/demo runs/demo/samples/*.png --out runs/demo/predictions
	$(BIN)/headwise report runs/demo

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# Two processes with one thread each are faster than one with two.
test: export OMP_NUM_THREADS = 1
test: lint
	$(BIN)/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	$(BIN)/python -m pytest -n 2 --dist loadfile
