# make demo   set up, then translate built-in pictures
# make test   set up, then lint, types and the whole test suite
# make lint   style and format only
# make clean  remove the environment and everything that was built
#
# Set-up happens once: .venv is made with the first Python from 3.11 on that is found (or PYTHON=...).

SHELL := /bin/sh
CANDIDATES := python3 python3.13 python3.12 python3.11
PYTHON ?= $(shell for python in $(CANDIDATES); do \
	if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$python; break; fi; done)
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint types clean

help:
	@sed -n 's/^# //p' Makefile | head -n 4

demo: $(INSTALLED)
	$(BIN)/cyclevar demo

# One process a core, each with one thread: the small tensors of the tests gain nothing from more.
test: lint types
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n logical --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy reads the built wheel: in the repository the folders do not lie as the import names say.
types: $(INSTALLED)
	rm -rf build .typing
	$(BIN)/python -m pip wheel . --quiet --no-deps --no-build-isolation --wheel-dir .typing
	rm -rf build *.egg-info  # stale entry points would be found before the installed ones
	$(BIN)/python -m pip install --quiet --no-deps --target .typing/site .typing/*.whl
	MYPYPATH=.typing/site $(BIN)/mypy --strict -p cyclevar

clean:
	rm -rf .venv .typing build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "make: no Python 3.11 or later was found among: $(CANDIDATES); install one, or run make PYTHON=/path/to/python" >&2; \
		exit 2; \
	fi
	@if [ ! -x $(BIN)/python ]; then echo "$(PYTHON) -m venv .venv"; $(PYTHON) -m venv .venv; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
