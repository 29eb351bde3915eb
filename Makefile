# `make demo`, `make test` and the other targets need Python 3.11 or newer and make; each makes its own environment under .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-lower-bound frameworks search loops recipes lint docs gallery bench-gpu

$(VENV)/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[all,aggregate]" --group test --group lint --group loops
	touch $@

demo: $(VENV)/.ready
	rm -rf runs/demo
	$(BIN)/headwise live runs/demo & live=$$!; trap 'kill $$live' EXIT; trap 'exit 130' INT TERM; \
	$(BIN)/headwise train textsnake --demo --steps 300 --out runs/demo
	$(BIN)/headwise predict runs/demo runs/demo/samples/*.png --out runs/demo/predictions
	-$(BIN)/headwise alerts runs/demo
	$(BIN)/headwise suggest runs/demo
	$(BIN)/headwise report runs/demo --no-png

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# The site, from docs/ and the docstrings, in site/index.html; a warning is an error.
$(VENV)/.docs: pyproject.toml $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	touch $@

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs site

# Pages of runs for the site, which the next `make docs` takes in; a page that is there is not made again.
gallery: export OMP_WAIT_POLICY = PASSIVE
gallery: $(VENV)/.ready
	$(BIN)/python docs/make_gallery.py

# Two processes with one thread each are faster than one with two.
test: export OMP_NUM_THREADS = 1
test: lint
	$(BIN)/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The oldest torch that pyproject.toml allows, in an environment of its own: what reads torch's graphs, and torch.compile.
LOWER := .venv-lower

$(LOWER)/.ready: pyproject.toml
	test -x $(LOWER)/bin/python || $(PYTHON) -m venv $(LOWER)
	$(LOWER)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(LOWER)/bin/python -m pip install --quiet --disable-pip-version-check "torch==2.11.*" "torchvision==0.26.*"
	$(LOWER)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[yaml]" "numpy>=1.26" --group test
	touch $@

test-lower-bound: export OMP_NUM_THREADS = 1
test-lower-bound: $(LOWER)/.ready
	$(LOWER)/bin/python -m pytest -n 2 --dist loadfile -m "not slow" tests/criterion tests/losses/test_half_precision.py \
		tests/attribution/test_effect.py tests/attribution/test_trace.py tests/attribution/test_ledger.py \
		tests/attribution/test_ledger_levels.py tests/test_normalizers.py
	$(LOWER)/bin/python -m pytest -n 2 --dist load -k one_graph tests/presets

# Other libraries, in an environment of its own that takes torch, and what else is there, from $(VENV). What cannot be had is
# said, and its tests are skipped.
FRAMEWORKS := .venv-frameworks
SITE := -c "import site; print(site.getsitepackages()[0])"
GROUP := -c "import sys, tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['dependency-groups'][sys.argv[1]])"

$(FRAMEWORKS)/.ready: pyproject.toml $(VENV)/.ready
	test -x $(FRAMEWORKS)/bin/python || $(PYTHON) -m venv $(FRAMEWORKS)
	(cd $(BIN) && ./python $(SITE); echo $(CURDIR)/src) > $$($(FRAMEWORKS)/bin/python $(SITE))/headwise.pth
	for each in "pip>=25.1" $$($(BIN)/python $(GROUP) frameworks) "--no-deps $$($(BIN)/python $(GROUP) torchtitan)"; do \
		$(FRAMEWORKS)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade-strategy only-if-needed $$each \
			|| echo "$$each: could not be installed, and is NOT tested"; \
	done
	touch $@

frameworks: export OMP_NUM_THREADS = 1
frameworks: $(FRAMEWORKS)/.ready
	$(FRAMEWORKS)/bin/python -m pytest -n 2 --dist loadfile tests/frameworks

# Other examples of every property on each run, and more of them; `make test` draws the same ones every time.
search: export OMP_NUM_THREADS = 1
search: export HYPOTHESIS_PROFILE = search
search: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# Books of 10,000 random loops beside autograd.grad (LOOPS=100000 FROM=10000 for more, and others), and scripts of frameworks.
LOOPS ?= 10000
FROM ?= 0

loops: export OMP_NUM_THREADS = 1
loops: $(VENV)/.ready
	HEADWISE_LOOPS=$(LOOPS) HEADWISE_LOOPS_FROM=$(FROM) $(BIN)/python -m pytest -n 2 --dist load --timeout 0 \
		tests/attribution/test_random_loops.py tests/attribution/test_run.py

# All nine recipes as a new user has them: train, interrupt, move, resume, predict, report.
recipes: export OMP_NUM_THREADS = 1
recipes: $(VENV)/.ready
	HEADWISE_RECIPES=all $(BIN)/python -m pytest -n 2 tests/own_data/test_new_user.py

# PARTS=a,c runs these parts alone; without a GPU: make bench-gpu OPTIONS="--device cpu --small".
bench-gpu: $(VENV)/.ready
	PYTHONPATH=src $(BIN)/python -m benchmarks.gpu $(if $(PARTS),--parts $(PARTS)) $(OPTIONS)
