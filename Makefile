# Every target does its own set-up in .venv; a set-up that is done is not done again.
# Another Python: make test PYTHON=python3.13

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INPUTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help test lint demo bench fuzz docs clean

help:
	@echo "make test   set up, then ruff, pyright, the layer contract and all tests"
	@echo "make demo   set up, then voices -> casts -> training -> unseen speakers, with a picture"
	@echo "make lint   ruff, pyright and the layer contract only"
	@echo "make bench  run every script in benchmarks/"
	@echo "make fuzz   damage files of every kind for ten minutes and see that the readers bear it"
	@echo "make docs   build the documentation into docs/_build/html"
	@echo "make clean  remove .venv and everything built"

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo

demo: $(VENV)/.ready-study
	$(BIN)/python -m weigher.cli.demo

bench: $(VENV)/.ready-study
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

fuzz: $(VENV)/.ready-test
	$(BIN)/python tests/fuzzing.py --seconds 600

docs: $(VENV)/.ready-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# .ready-EXTRA says that weigher is installed with that extra. torch goes first and alone, held by the constraints, so
# that nothing later brings in another build of it.
$(VENV)/.ready-%: $(VENV)/.ready
	@echo "setting up weigher[$*] in $(VENV) (the first time takes some minutes)"
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e '.[$*]'
	@touch $@

$(VENV)/.ready: $(INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "weigher needs Python 3.11 or newer, and '$(PYTHON)' is not ($$($(PYTHON) --version 2>&1))."; \
	  echo "Name another one: make $(or $(MAKECMDGOALS),test) PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu it needs the package python3-venv."; exit 1; }
	@touch $@

.PRECIOUS: $(VENV)/.ready-%
