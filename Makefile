# `make repro` and `make test` do all the set-up themselves; nothing else is needed but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test soak attack startup docs install clean

repro: install  ## the default study, from data to report
	dvc repro
	@cat report.md

test: install  ## linters, layers, types, tests
	ruff check
	ruff format --check
	lint-imports
	mypy
	pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=12

soak: install  ## hours: real CIFAR-10, found under ADVEBM_DATA, trainings killed again and again, the audit of digits
	pytest -m soak -s

attack: install  ## an hour: kills, damaged files, a full disk, slow servers, hostile files; writes docs/attack.md
	python tests/attack

startup: install  ## start-up times of the stages
	python tests/startup.py

docs: install  ## the documentation as a site, which needs no network; site/index.html
	NO_MKDOCS_2_WARNING=1 mkdocs build

install: $(VENV)/installed

# torch first, by itself: the resolver then keeps the build that is there.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean:  ## the environment and the caches of the tools
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache .mypy_cache
