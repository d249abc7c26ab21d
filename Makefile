# make demo: search the learning rate of a small net on scikit-learn's digits, and draw the curve.
# make test: run most checks, in under ten minutes. Both need Python 3.11 or newer and nothing else.
# make test-all: run every check there is.
# make pictures: redraw the pictures in docs/.
# make docs: build the site in docs/_build/html; with SPHINXOPTS="-D plot_gallery=0" without running the examples.
# make wheel: build the sdist and the wheel in dist/, and check what a package index would say about them.
# make wheel-check: install that wheel in an empty environment, and run the README's search with it.
# make test-device: run the checks on a simulated CUDA device, which need a C++ compiler.
# make test-oldest: run the tests with the oldest versions that pyproject.toml allows.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
# of the tests, on two cores: some wait for other processes
WORKERS ?= 3
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-all test-device test-oldest lint pictures docs wheel wheel-check clean

demo: $(VENV)/demo.stamp
	$(BIN)/python examples/demo.py

test: lint
	OMP_NUM_THREADS=1 SCIPY_ARRAY_API=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-all: lint
	OMP_NUM_THREADS=1 SCIPY_ARRAY_API=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "slow or not slow" $(ARGS)

test-device: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/python tests/device/run.py -q

test-oldest: $(VENV)/oldest.stamp
	OMP_NUM_THREADS=1 SCIPY_ARRAY_API=1 $(VENV)/oldest/bin/python -m pytest -n $(WORKERS) --dist worksteal -m "slow or not slow"

lint: $(VENV)/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

pictures: $(VENV)/demo.stamp
	cd docs && $(abspath $(BIN))/python ../examples/demo.py
	cd docs && for example in ../examples/plot_*.py; do \
	    MPLBACKEND=Agg $(abspath $(BIN))/python $$example || exit 1; \
	done

docs: $(VENV)/docs.stamp
	cd docs && OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m sphinx -b html -W --keep-going -n -q \
	    -d _build/doctrees $(SPHINXOPTS) . _build/html

wheel: $(VENV)/release.stamp
	rm -rf build dist
	$(BIN)/python -m build .
	$(BIN)/twine check --strict dist/*

wheel-check: wheel
	$(PYTHON) -m venv --clear $(VENV)/wheel
	$(VENV)/wheel/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    "$$(ls $(CURDIR)/dist/*.whl)[plot]"
	cd "$$(mktemp -d)" && MPLBACKEND=Agg $(abspath $(VENV))/wheel/bin/python -W once \
	    $(CURDIR)/tests/quick_start.py $(CURDIR)/README.md

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable ".[plot,progress]"
	touch $@

$(VENV)/docs.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable ".[docs]"
	touch $@

$(VENV)/test.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable ".[test]"
	touch $@

$(VENV)/release.stamp: $(VENV)/bin/python
	$(INSTALL) "build>=1.2" "twine>=6"
	touch $@

$(VENV)/oldest.stamp: $(VENV)/bin/python pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv --clear $(VENV)/oldest
	$(VENV)/oldest/bin/python -m pip install --quiet --disable-pip-version-check \
	    --constraint constraints-oldest.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf docs/_build docs/examples docs/generated
