# One virtual environment, made once; again when pyproject.toml or constraints.txt change. Python compiles a module when
# it is first imported; compiling all of them ahead takes longer than the rest of the installation.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help demo test lint docs release data text clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

demo: $(STAMP)  ## a small example from start to end, into runs/demo
	$(BIN)/oneblock demo --out runs/demo

test: $(STAMP)  ## the fast tests, in WORKERS processes with a thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(STAMP)  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## the pages of docs and a reference, as a site into site
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

release:  ## build wheel and sdist, and try both in fresh environments without the source
	PYTHON=$(PYTHON) bash scripts/check_release.sh

data: $(STAMP)  ## fetch the data sets of the benchmarks into data
	$(BIN)/pip install --quiet -c constraints.txt resvg-py
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/fetch_data.sh

text: $(STAMP)  ## fetch 22 MB of English in the public domain into data/text
	$(BIN)/pip install --quiet -c constraints.txt rdata
	PYTHON=$(BIN)/python bash scripts/fetch_text.sh

clean:  ## remove the environment, caches and builds; data and runs stay
	rm -rf .venv build dist site .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'oneblock needs Python 3.11 or newer, and "$(PYTHON)" is not. Try: make PYTHON=/path/to/python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo '"$(PYTHON)" cannot make a virtual environment. On Debian and Ubuntu install python3-venv.' >&2; exit 1; }
	rm -f $@
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile -c constraints.txt torch
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch $@
