# `make demo` trains the built-in demo and `make test` runs the tests; both make their own virtual environment first.
PYTHON ?= python3
VENV ?= .venv

.PHONY: demo test test-all check help
demo: $(VENV)/.installed ## train the built-in demo: two columns, pictures drawn on the spot, about two minutes
	$(VENV)/bin/python -m cluster.train

test: $(VENV)/.installed ## run the quick tests, two at a time: all but those marked `ci`
	$(VENV)/bin/python -m pytest -n 2 -m "not ci"

test-all: $(VENV)/.installed ## run all tests, as CI does
	$(VENV)/bin/python -m pytest -n 2

check: $(VENV)/.installed ## formatter, linter and type checker, as CI runs them
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
