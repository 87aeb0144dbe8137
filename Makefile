# make demo   install into .venv, then turn a shipped recording into MIDI and another timbre
# make test   install with the development tools, then lint, types, import directions and tests;
#             the fast ones alone: PYTEST_ARGS='-m "not slow"'
# make model  learn all that ships, from nothing (training/model.mk)

VENV   ?= .venv
BIN    := $(VENV)/bin
# The first Python that v3audio runs on; PYTHON=... chooses another.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
            $(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
            && echo $(p))))
PYTEST_ARGS ?=

.PHONY: demo test

demo: $(VENV)/.installed
	$(BIN)/v3audio demo -o demo-out

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Each install is first tried without the network, which does when all is there already; a fresh one
# takes a few minutes, most of it torch.
$(VENV)/.installed: pyproject.toml v3audio/_frame.c | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --no-index --no-build-isolation -e . 2>/dev/null || { \
	  echo 'installing v3audio and what it needs into $(VENV) (about 2 GB, once)' && \
	  $(BIN)/python -m pip install --quiet -e . ; }
	@touch $@

$(VENV)/.installed-dev: pyproject.toml v3audio/_frame.c | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --no-index --no-build-isolation -e . --group dev 2>/dev/null || { \
	  echo 'installing v3audio and its development tools into $(VENV)' && \
	  $(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' && \
	  $(BIN)/python -m pip install --quiet -e . --group dev ; }
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@test -n '$(PYTHON)' || { \
	  echo 'v3audio needs Python 3.11, 3.12 or 3.13; install one, or name it: make PYTHON=/path/to/python' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

include training/model.mk
