# graceful, from a bare checkout on Debian with Python 3.10 or later:
#
#   make demo     serve the built-in demo application on port 8080
#   make test     every check and every test; installs what it needs, also with apt (as root or by sudo)
#   make bench    measure the throughput beside other servers; BENCH="--rounds 15" passes options
#   make redeploy count what clients lose when servers are redeployed under load; BENCH="--redeploys 100" likewise
#   make install  only bring the installed copy up to date with the sources
#   make clean    remove what all this has made
#
# Everything is installed into .venv, once: while nothing has changed, nothing is downloaded or built again.
#
# It is the *wheel* that is installed, never an editable install: that one hides the plugin from twistd, and with
# a wheel the tests see what users get.  So there are two copies of graceful.  The real processes that the tests
# start, in temporary directories, run the installed copy; what pytest imports itself comes from the checkout,
# so that one can edit and run a test.  To keep them the same, every target below first builds and installs a
# new wheel if any source is newer, and `make test` compares the wheel with the checkout byte by byte.  Whoever
# runs pytest by hand after a change runs `make install` before.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: demo test bench redeploy install clean system lint types wheel fast docs tests

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
WHEEL = $$(echo dist/graceful_app-*.whl)
ALONE := $(VENV)/alone
PIP_ALONE := $(subst $(BIN),$(ALONE)/bin,$(PIP))

# The first that is new enough; `make PYTHON=python3.13 test` chooses another one.
PYTHON ?= $(or $(shell for python in python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$python && break; done), \
	$(error no python3.11 and no python3 that is 3.10 or later; say which one: make PYTHON=...))

SYSTEM := chromium curl gcc haproxy libc6-dev nginx openssh-client postgresql systemd wrk

# All that a wheel is made of.  The directories are in it too: a deleted file leaves no other trace.
SOURCES := $(shell find graceful twisted -name __pycache__ -prune -o \
	! -name '*.pyc' ! -name dropin.cache -print) _graceful_app.py setup.py pyproject.toml LICENSE README.md

demo: install
	exec $(BIN)/twistd -n graceful-app

test: system lint types wheel fast docs tests

bench: $(VENV)/.bench install
	tools/apt-missing wrk
	$(BIN)/python bench/throughput.py $(BENCH)

redeploy: $(VENV)/.bench install
	$(BIN)/python bench/redeploy.py $(BENCH)

install: $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist docs/_build _trial_temp* *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find twisted -name dropin.cache -delete

# The parts of `make test`.

system:
	tools/apt-missing $(SYSTEM)

lint: $(VENV)/.test
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --quiet --check
	$(BIN)/lint-imports --no-logo --no-cache

types: $(VENV)/.test
	$(BIN)/mypy

# What would be uploaded: a source distribution, and the wheel that is built from that alone.  A file that only the
# checkout has is missing from one of them; git knows which those are, so without its directory nobody can ask.
# Setuptools would pack again what an earlier list of sources names.
wheel: $(VENV)/.test install
	$(BIN)/python tools/check_wheel.py $(WHEEL)
	rm -rf dist/upload graceful_app.egg-info
	$(BIN)/pyproject-build --no-isolation --outdir dist/upload >dist/upload.log 2>&1 || { cat dist/upload.log; exit 1; }
	rm -rf graceful_app.egg-info
	$(BIN)/python tools/check_wheel.py dist/upload/*.whl
	$(BIN)/twine check --strict dist/upload/*
	if [ -e .git ]; then $(BIN)/check-manifest --quiet --no-build-isolation; fi

# Out of the checkout, in an environment of their own, the fast tests can only import what the wheel has and what it
# asks for.  They run nowhere else, since the wheel is the same as the checkout, byte by byte.
fast: $(VENV)/.alone-installed
	place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; \
	cp -r tests pyproject.toml "$$place"; pytest=$$PWD/$(ALONE)/bin/pytest; cd "$$place"; \
	env -u PYTHONPATH "$$pytest" --quiet --numprocesses=auto tests/fast

docs: $(VENV)/.test
	if [ -e docs/conf.py ]; then $(BIN)/sphinx-build -q -W --keep-going docs docs/_build; fi

# Most real tests wait for something most of the time, so more processes share them than there are processors;
# tests/conftest.py says how.
tests: $(VENV)/.test install
	$(BIN)/pytest --numprocesses=3 --dist=loadscope --no-loadscope-reorder tests/real tests/integration

# The environment.  A file whose name begins with a dot says when something was last done.

# Debian has the venv module without what it needs, until its package is installed.
$(VENV)/.python:
	if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	    tools/apt-missing $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	fi
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(PIP) install 'setuptools>=77'
	touch $@

# What an earlier build has left in build/ would be packed again.
dist/.built: $(SOURCES) $(VENV)/.python
	rm -rf build dist
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build graceful_app.egg-info
	touch $@

# What the wheel needs, and with it for a moment the wheel itself.
$(VENV)/.runtime: pyproject.toml | dist/.built
	$(PIP) install $(WHEEL)
	touch $@

$(VENV)/.test $(VENV)/.bench: $(VENV)/.%: pyproject.toml | dist/.built
	$(PIP) install "$(WHEEL)[$*]"
	touch $@

# What the fast tests need, and no more: what pyproject.toml no longer names is gone from here, too.
$(VENV)/.alone: pyproject.toml | dist/.built
	$(BIN)/python -m venv --clear $(ALONE)
	$(PIP_ALONE) install "$(WHEEL)[fast]"
	touch $@

$(VENV)/.alone-installed: dist/.built $(VENV)/.alone
	$(PIP_ALONE) install --no-deps --no-index --force-reinstall $(WHEEL)
	touch $@

# Twisted keeps a list of the plugins beside them, which a server that may not write there cannot bring up to
# date; so it is done here.
$(VENV)/.installed: dist/.built $(VENV)/.runtime
	$(PIP) install --no-deps --no-index --force-reinstall $(WHEEL)
	$(BIN)/python -I -c 'from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))'
	touch $@
