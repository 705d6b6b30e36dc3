# make help lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The project's own files: what a user writes beside them, into configs/ for example, is theirs.
SOURCES := $(or $(shell git ls-files '*.py' 2>/dev/null),mmsemi tools tests setup.py)

.DEFAULT_GOAL := help
.PHONY: help install test demo docs lint format clean

help: ## list the targets
	@echo 'make [PYTHON=python3.x] TARGET'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

install: $(INSTALLED) ## make .venv and install mmsemi with everything it needs into it

# The package is installed for development: only what is declared in these two files needs a new installation.
$(INSTALLED): setup.py pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
		{ echo 'error: $(PYTHON) was not found; install Python 3.10 or later, or name one: make PYTHON=/path/to/python3 install' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: mmsemi needs Python 3.10 or later, but $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=python3.11 install" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'error: $(PYTHON) cannot make virtual environments (no venv or ensurepip); on Debian and Ubuntu: sudo apt install python3-venv' >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo 'installing mmsemi, torch and OpenMMLab into $(VENV); this takes some minutes'
	$(BIN)/python -m pip install --quiet --editable '.[onedl,test]'
	@touch $@

lint: install ## check style
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)

test: lint ## install, check style, run the test-suite (pytest -m slow runs the long ones)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -q --numprocesses auto --dist worksteal

demo: install ## install, train the baseline and METHOD (default mllc) on generated images, compare them
	$(BIN)/python tools/demo.py $(if $(METHOD),--method $(METHOD))

docs: install ## build the pages of docs/ into docs/_build/html; a warning is an error
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo 'docs/_build/html/index.html'

format: install ## rewrite files in the project's style
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

clean: ## remove .venv, caches and build output; data and work_dirs stay
	rm -rf $(VENV) build dist *.egg-info mmsemi/.mim .pytest_cache .ruff_cache docs/_build docs/methods
	find mmsemi tools tests configs -name __pycache__ -type d -prune -exec rm -rf {} +
