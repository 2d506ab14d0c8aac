# graceful, from a bare checkout on Debian with Python 3.10 or later:
#
#   make demo     serve the built-in demo application on port 8080
#   make test     every check and every test; installs what it needs, also with apt (as root or by sudo)
#   make lowest   run the fast tests with the lowest versions of the dependencies that pyproject.toml allows
#   make bench    measure the throughput beside other servers; BENCH="--rounds 15" passes options
#   make figures  the same, and write the README's table and those of the documentation, and the plot, from the result
#   make redeploy count what clients lose when servers are redeployed under load; BENCH="--redeploys 100" passes options
#   make matrix   the tests of takedowns and all fast ones on each CPython from 3.10 to 3.15 that can be had;
#                 MATRIX=compiled makes the compiled wheel of each, and tests that
#   make soak     twenty minutes of deploys, kills and limits under load, and then as many of deploys of real
#                 applications under their real clients; BENCH="--minutes 60" passes options to the first
#   make manual   make the manual page and the completions of shells again
#   make wheels   build the wheel for all, and the compiled one for the Python at hand, in dist/ and dist/manylinux/;
#                 MATRIX=compiled of `make matrix` leaves those of all versions there
#   make install  only bring the installed copy up to date with the sources
#   make clean    remove what all this has made
#
# Everything is installed into .venv, once: while nothing has changed, nothing is downloaded or built again.
#
# It is the *wheel* that is installed, never an editable install: that one hides the plugin from twistd, and with
# a wheel the tests see what users get.  So there are two copies of graceful.  The real processes that the tests
# start, in temporary directories, run the installed copy; what pytest imports itself comes from the checkout,
# so that one can edit and run a test.  To keep them the same, every target below first builds and installs a
# new wheel if any source is newer, and `make test` compares the wheel with the checkout byte by byte.  Before a run
# of pytest by hand, run `make install`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# Where it is set, each server that a test starts would compile again most of what it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo manual test wheels compiled lowest bench figures redeploy soak matrix install clean \
	system lint types wheel collected fast lowest-parser quick pythons docs idle tests

# One thing after the other, whatever is said on the command line, but for those that `make test` has run beside each
# other: they share no file that one of them writes.
ifndef BESIDE
.NOTPARALLEL:
endif

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
WHEEL = $$(echo dist/graceful_app-*.whl)
ALONE := $(VENV)/alone
COMPILED := $(VENV)/compiled
QUICK := $(VENV)/quick
LOWEST := $(VENV)/lowest
APPLICATIONS := $(VENV)/applications
SCANNER := $(VENV)/scanner

# The other environments of tests have no pip of their own, which would take longer than what it installs.  Most of
# what is installed there is never imported; Python compiles the rest by itself.
make_environment = $(BIN)/python -m venv --clear --without-pip $(1)
install_into = $(PIP) --python $(1) install --no-compile

# The first that is new enough; `make PYTHON=python3.13 test` chooses another one.  The distribution's comes first: most
# servers run on it, and one that was built without profile-guided optimization, as pyenv builds them, is a tenth slower.
PYTHON ?= $(or $(shell for python in /usr/bin/python3 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$python && break; done), \
	$(error no python3 and no python3.11 that is 3.10 or later; say which one: make PYTHON=...))

# Of the real tests, those that a compiled server has to pass in `make soak`: all ways of a request through the compiled
# modules, its takedown, and its move to another process.
COMPILED_TESTS := $(patsubst %,tests/real/test_%.py,serving application bodies resources proxy_protocol deadlines \
	stuck_threads injected_failures token_stress stop downloads downloads_broken downloads_stop long_polls tls tls_listener \
	websockets websockets_stop asgi asgi_stop hang_up moving moving_requests moving_downloads)

# Those for which `make test` has time: the many forms of requests, applications and answers, where a value may have
# another type than an annotation says, and takedowns, which raise exceptions through compiled functions.
QUICK_TESTS := $(patsubst %,tests/real/test_%.py,serving application downloads) \
	tests/real/test_deadlines.py::test_out_of_time \
	tests/real/test_tls.py::test_tls_exchanges_are_taken_down_at_the_deadline

# Those of what rests on the parsers of other projects.
PARSER_TESTS := $(patsubst %,tests/fast/web/test_%.py,request_parser known_heads field_lines exchange) tests/fast/websocket

MATRIX := full

# What is measured, and the scanner of TLS, run on the distribution's Python, whichever the tests run on.
MEASURED := $(VENV)/measured
MEASURED_PYTHON := $(or $(shell /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& echo /usr/bin/python3),$(PYTHON))
PIP_MEASURED := $(subst $(BIN),$(MEASURED)/bin,$(PIP))

SYSTEM := chromium curl fish gcc git haproxy libc6-dev nginx openssh-client postgresql prometheus systemd \
	systemd-container wrk zsh

# All that a wheel is made of.  The directories are in it too: a deleted file leaves no other trace.
SOURCES := $(shell find graceful share twisted -name __pycache__ -prune -o \
	! -name '*.pyc' ! -name dropin.cache -print) _graceful_app.py setup.py pyproject.toml LICENSE README.md

demo: install
	exec $(BIN)/twistd -n graceful-app

test: system dist/.built
	$(MAKE) BESIDE=1 --jobs=2 --output-sync=target $(VENV)/.test collected pythons quick fast lint $(VENV)/.scanner
	$(MAKE) BESIDE=1 --jobs=2 tests idle

# A wheel that says `linux` is for this machine alone; auditwheel looks which versions of glibc it can run with.
wheels: wheel dist/.compiled $(VENV)/.labels
	rm -rf dist/manylinux
	$(BIN)/python tools/label.py dist/compiled/*.whl
	$(BIN)/python tools/check_wheel.py dist/manylinux/*.whl
	$(BIN)/twine check --strict dist/manylinux/*

manual: $(VENV)/.test
	$(BIN)/python tools/completions.py
	$(BIN)/sphinx-build -q -W -b man docs docs/_build/man
	mkdir -p share/man/man1
	cp docs/_build/man/graceful.1 share/man/man1/

bench: $(MEASURED)/.installed $(MEASURED)-compiled/.installed
	tools/apt-missing wrk
	$(MEASURED)/bin/python bench/throughput.py $(BENCH)

# A cell that is invalid fails, and is left out of the tables.
figures: $(MEASURED)/.installed $(MEASURED)-compiled/.installed
	tools/apt-missing wrk
	rm -f $(MEASURED)/throughput.json
	failed=0; $(MEASURED)/bin/python bench/throughput.py --json $(MEASURED)/throughput.json $(BENCH) || failed=$$?; \
	$(MEASURED)/bin/python bench/publish.py $(MEASURED)/throughput.json; exit $$failed

redeploy: $(MEASURED)/.installed
	$(MEASURED)/bin/python bench/redeploy.py $(BENCH)

soak: $(VENV)/.test install $(VENV)/.scanner $(VENV)/.applications-installed
	$(BIN)/python bench/soak.py $(BENCH)
	GRACEFUL_TEST_EXAMPLES=20 $(BIN)/pytest --quiet $(PARSER_TESTS) tests/fast/sockets/test_proxy_header.py
	GRACEFUL_TEST_POINTS=25 $(BIN)/pytest --quiet tests/real/test_moving_killed.py
	GRACEFUL_TEST_POINTS=8 $(BIN)/pytest --quiet tests/real/test_workers_moving_killed.py
	GRACEFUL_TEST_EDITS=50 $(BIN)/pytest --quiet tests/real/test_reload.py
	GRACEFUL_TEST_DEPLOYS=20 $(BIN)/pytest --quiet tests/real/test_tls_clients.py \
		tests/real/test_stop.py::test_nobody_notices_deploys_in_a_row
	GRACEFUL_TEST_WEBSOCKETS=5000 $(BIN)/pytest --quiet tests/real/test_websockets_many.py
	$(APPLICATIONS)/bin/python bench/applications.py
	$(MAKE) compiled

# Debian's unstable release has what this machine has not; as root, it is installed below .venv.
matrix: $(VENV)/.test $(VENV)/.labels install
	$(BIN)/python tools/matrix.py $(MATRIX) $(WHEEL)

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

# Pytest rewrites the assertions of what it imports: for the real tests, each process would do so for ten seconds.
collected: $(VENV)/.test install
	$(BIN)/pytest --quiet --collect-only tests/real tests/integration >$(VENV)/collected.log || \
		{ cat $(VENV)/collected.log; exit 1; }

# Out of the checkout, in an environment of their own, the fast tests can only import what the wheel has and what it
# asks for.  They run nowhere else, since the wheel is the same as the checkout, byte by byte.
fast: $(VENV)/.alone-installed
	$(call elsewhere,$(ALONE),--numprocesses=auto tests/fast)

# Some of the real tests once more, against servers that run compiled.
compiled: $(VENV)/.compiled-installed
	$(COMPILED)/bin/graceful --version | grep --quiet ', compiled$$'
	$(call elsewhere,$(COMPILED),--numprocesses=4 $(COMPILED_TESTS),docs)

quick: $(VENV)/.quick-installed
	$(QUICK)/bin/graceful --version | grep --quiet ', compiled$$'
	$(call elsewhere,$(QUICK),--numprocesses=2 $(QUICK_TESTS))

# What a version of a dependency lets through that is older than the one at hand shows in the parser first.
lowest-parser: $(VENV)/.lowest-installed
	export GRACEFUL_TEST_EXAMPLES=0.2; $(call elsewhere,$(LOWEST),$(PARSER_TESTS))

lowest: $(VENV)/.lowest-installed
	$(call elsewhere,$(LOWEST),--numprocesses=auto tests/fast)

# Run pytest of an environment, with these arguments, on a copy of the tests and of what else is named, without what has
# been compiled of them, which another target may just be writing.
define elsewhere
	place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; \
	tar --create --exclude=__pycache__ tests pyproject.toml $(3) | tar --extract --directory "$$place"; \
	pytest=$$PWD/$(1)/bin/pytest; cd "$$place"; \
	env -u PYTHONPATH "$$pytest" --quiet $(2)
endef

# The tests of what rests on the interpreter, on each further version of this machine: some seconds for each.
pythons: $(VENV)/.test install
	$(BIN)/python tools/matrix.py short $(WHEEL)

docs: $(VENV)/.test
	if [ -e docs/conf.py ]; then $(BIN)/sphinx-build -q -W --keep-going docs docs/_build; fi

# The real tests leave a sixth of the processors idle: for what may wait, and changes nothing that they use.
idle:
	nice -n 19 $(MAKE) --output-sync=target types docs lowest-parser wheel

# Most real tests wait for something most of the time, so more processes share them than there are processors;
# tests/conftest.py says how.
tests: $(VENV)/.test install $(VENV)/.scanner
	$(BIN)/pytest --numprocesses=6 --dist=loadscope --no-loadscope-reorder tests/real tests/integration

# The environment.  A file whose name begins with a dot says when something was last done.

# Debian has the venv module without what it needs, and no headers for a C compiler, until a package is installed.
have_venv = $(call have,$(1),import ensurepip$(comma) venv,python%d.%d-venv)
have_headers = $(call have,$(1),import os$(comma) sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h"),gcc python%d.%d-dev)
have = $(1) -c '$(2)' 2>/dev/null || tools/apt-missing $$($(1) -c 'import sys; print("$(3)" % sys.version_info[:2])')
comma := ,

# Make a compiled wheel: by the pip $(1), for whose Python it is, into the directory $(2); with $(3) as setup.py says.
compile = GRACEFUL_COMPILE=$(or $(3),1) $(1) wheel --no-deps --no-build-isolation --wheel-dir $(2) .

# Twisted keeps a list of the plugins beside them, which a server that may not write there cannot bring up to date; so
# it is done where one is installed.
list_plugins = $(1)/bin/python -I -c 'from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))'

$(VENV)/.python:
	$(call have_venv,$(PYTHON))
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(PIP) install 'pip>=25' 'setuptools>=77'
	touch $@

# Two processes of pip in one environment would be in each other's way.
ifdef BESIDE
$(VENV)/.installed: | $(VENV)/.test
endif

# What an earlier build has left in build/ would be packed again.  And a directory that Python makes later would look like
# a change of the sources.
dist/.built: $(SOURCES) $(VENV)/.python
	rm -rf build dist
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build graceful_app.egg-info
	find graceful twisted -type d ! -name __pycache__ -exec mkdir -p {}/__pycache__ \;
	touch $@

# What the wheel needs, and with it for a moment the wheel itself.
$(VENV)/.runtime: pyproject.toml | dist/.built
	$(PIP) install $(WHEEL)
	touch $@

$(VENV)/.test: pyproject.toml | dist/.built $(VENV)/.runtime
	$(PIP) install --no-compile "$(WHEEL)[test]"
	touch $@

$(MEASURED)/.bench: pyproject.toml | dist/.built
	$(call have_venv,$(MEASURED_PYTHON))
	$(MEASURED_PYTHON) -m venv --clear $(MEASURED)
	$(PIP_MEASURED) install "$(WHEEL)[bench]"
	touch $@

$(MEASURED)/.installed: dist/.built $(MEASURED)/.bench
	$(PIP_MEASURED) install --no-deps --no-index --force-reinstall $(WHEEL)
	$(call list_plugins,$(MEASURED))
	touch $@

# The same with the compiled wheel, which is made by the Python that is measured.
$(MEASURED)-compiled/.installed: dist/.built $(MEASURED)/.bench | $(VENV)/.test
	$(call have_headers,$(MEASURED)/bin/python)
	$(MEASURED_PYTHON) -m venv --clear --without-pip $(MEASURED)-compiled
	$(MEASURED)-compiled/bin/python tools/borrow.py $(MEASURED)
	$(PIP_MEASURED) install "$(WHEEL)[all]" 'mypy>=2.4,<3' 'mypy-zope>=1.0.17,<2' 'setuptools>=77'
	$(call compile,$(PIP_MEASURED),$(MEASURED)-compiled/wheel)
	$(PIP) --python $(MEASURED)-compiled install --no-compile --no-deps --no-index --ignore-installed \
	    $(MEASURED)-compiled/wheel/graceful_app-*.whl
	$(call list_plugins,$(MEASURED)-compiled)
	touch $@

# What the fast tests need, and no more: what pyproject.toml no longer names is gone from here, too.
$(VENV)/.alone: pyproject.toml | dist/.built
	$(call make_environment,$(ALONE))
	$(call install_into,$(ALONE)) "$(WHEEL)[fast]"
	touch $@

$(VENV)/.alone-installed: dist/.built $(VENV)/.alone
	$(call install_into,$(ALONE)) --no-deps --no-index --force-reinstall $(WHEEL)
	touch $@

# Compiled wheels, whose names say for which Python and platform they are; mypyc is in mypy, which the tests have.
# These are made beside other targets: nothing is removed that is not theirs.
dist/.compiled dist/.quick: dist/.%: dist/.built | $(VENV)/.test
	$(call have_headers,$(BIN)/python)
	rm -rf dist/$*
	$(call compile,$(PIP),dist/$*,$(filter quick,$*))
	$(BIN)/python tools/check_wheel.py dist/$*/graceful_app-*.whl
	touch $@

# What is installed for the tests is here, too, behind the compiled wheel: nothing is downloaded for it.
$(VENV)/.compiled-installed $(VENV)/.quick-installed: $(VENV)/.%-installed: dist/.% | $(VENV)/.test
	$(call make_environment,$(VENV)/$*)
	$(VENV)/$*/bin/python tools/borrow.py $(VENV)
	$(PIP) --python $(VENV)/$* install --no-compile --no-deps --no-index --ignore-installed dist/$*/graceful_app-*.whl
	$(call list_plugins,$(VENV)/$*)
	touch $@

# Applications of other projects have many dependencies, which nothing else is to be tested with.
$(VENV)/.applications: pyproject.toml | dist/.built
	$(call make_environment,$(APPLICATIONS))
	$(call install_into,$(APPLICATIONS)) "$(WHEEL)[applications]"
	touch $@

$(VENV)/.applications-installed: dist/.built $(VENV)/.applications
	$(call install_into,$(APPLICATIONS)) --no-deps --no-index --force-reinstall $(WHEEL)
	$(call list_plugins,$(APPLICATIONS))
	touch $@

$(VENV)/.labels: pyproject.toml | $(VENV)/.test
	$(PIP) install --no-compile "$(WHEEL)[labels]"
	touch $@

# The scanner of TLS wants an older `cryptography` than the tests have, and cannot be installed on the newest Python.
$(VENV)/.scanner: pyproject.toml | dist/.built
	$(MEASURED_PYTHON) -m venv --clear --without-pip $(SCANNER)
	$(call install_into,$(SCANNER)) "$(WHEEL)[scanner]"
	touch $@

# The same with the lowest versions that are allowed of all that a server imports.
$(VENV)/.lowest: pyproject.toml tools/lowest.py $(VENV)/.python | dist/.built
	$(call make_environment,$(LOWEST))
	$(BIN)/python tools/lowest.py >$(LOWEST)/constraints.txt
	$(call install_into,$(LOWEST)) --constraint $(LOWEST)/constraints.txt "$(WHEEL)[fast]"
	touch $@

$(VENV)/.lowest-installed: dist/.built $(VENV)/.lowest
	$(call install_into,$(LOWEST)) --no-deps --no-index --force-reinstall $(WHEEL)
	touch $@

$(VENV)/.installed: dist/.built $(VENV)/.runtime
	$(PIP) install --no-deps --no-index --force-reinstall $(WHEEL)
	$(call list_plugins,$(VENV))
	touch $@
