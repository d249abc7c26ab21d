# make demo: search the learning rate of a small net on scikit-learn's digits, and draw the curve.
# make test: run every check there is. Both need Python 3.11 or newer and nothing else.
# make pictures: redraw the pictures in docs/.
# make docs: build the site in docs/_build/html; with SPHINXOPTS="-D plot_gallery=0" without running the examples.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint pictures docs clean

demo: $(VENV)/demo.stamp
	$(BIN)/python examples/demo.py

test: lint
	OMP_NUM_THREADS=1 SCIPY_ARRAY_API=1 $(BIN)/python -m pytest -n 2 --dist worksteal

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

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf docs/_build docs/examples docs/generated
